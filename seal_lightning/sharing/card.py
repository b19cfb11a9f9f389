"""Model cards: what weights are on, what they learnt from, how well, how they are used, and who may use them.

The data comes first (`Card`), the text last (`render`). The format is huggingface_hub's: its `ModelCardData` writes the
metadata, with scores as its model index. Of paths of this machine nothing is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from seal_lightning.files.saving import save_text
from seal_lightning.models.loading import SHIPPED, ModelSource, base_name
from seal_lightning.models.origins import CARD, Origin, is_hub_name, origin_of
from seal_lightning.results.averages import say_interval
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.text.masking import safe_to_save

Relation = Literal["adapter", "finetune", "merge"]
LIBRARY = {"adapter": "peft", "finetune": "transformers", "merge": "transformers"}
TAGS = ("seal-lightning", "self-adapting", "arxiv:2506.10943")
SCORES = "## Closed-book accuracy"
INTERVAL = "95 % interval"


@dataclass(frozen=True, slots=True)
class Source:
    """Data by the name that a card gives it: on the hub, or of a file or class without its folder."""

    name: str
    on_hub: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """An accuracy in [0, 1] with its interval.

    Attributes:
        name: What was asked: `before`, `edits after round 2` ...
        accuracy: Mean over contexts.
        low: Lower end of the interval; None where there are too few contexts for one.
        high: Its upper end.
        contexts: How many.
        queries: How many, over all contexts.
        split: Of the data: `validation`, `test`, or `train` for what was learnt itself.
    """

    name: str
    accuracy: float
    low: float | None
    high: float | None
    contexts: int
    queries: int
    split: str


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says.

    Attributes:
        title: Of the card, and of the model in its model index.
        relation: Of the weights to their base.
        base: What they are on.
        made: One sentence on how they came about.
        sections: Further text by heading, in order.
        results: Scores, in order.
        asked_of: The data of the results.
        grader: Who scored the answers.
        datasets: Data sets on the hub that were learnt from.
        usage: Markdown with code that loads the weights; empty for none.
        scored: Whether there is a section of scores.
    """

    title: str
    relation: Relation
    base: Origin
    made: str
    sections: Mapping[str, str]
    results: Sequence[Result] = ()
    asked_of: Source = Source("own data")
    grader: str = ""
    datasets: Sequence[str] = ()
    usage: str = ""
    scored: bool = True


def render(card: Card) -> str:
    """The text of a README.md."""
    known = card.base.licence is not None
    data = ModelCardData(
        base_model=card.base.name,
        base_model_relation=card.relation,
        license=card.base.licence,
        license_name=card.base.licence_name if known else None,
        license_link=card.base.licence_link if known else None,
        language=list(card.base.languages) or None,
        datasets=sorted(set(card.datasets)) or None,
        library_name=LIBRARY[card.relation],
        pipeline_tag="text-generation",
        tags=[*TAGS, *(["lora"] if card.relation == "adapter" else [])],
        model_name=card.title,
        eval_results=[_entry(result, card) for result in card.results] or None,
    )
    if not card.results:
        data.model_name = None
    parts = {
        f"# {markdown_cell(card.title, 100)}": card.made,
        **({"## How to use it": card.usage} if card.usage else {}),
        **({SCORES: scores_table(data.eval_results or [])} if card.scored else {}),
        **{f"## {name}": text for name, text in card.sections.items()},
    }
    return _text(data, "\n\n".join(f"{head}\n\n{text}" for head, text in parts.items()))


def _text(data: ModelCardData, body: str) -> str:
    return safe_to_save(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n")


def _entry(result: Result, card: Card) -> EvalResult:
    bounds = None if result.low is None or result.high is None else [round(result.low, 4), round(result.high, 4)]
    return EvalResult(
        task_type="question-answering",
        task_name="Closed-book questions",
        dataset_type="-".join(card.asked_of.name.split()),
        dataset_name=card.asked_of.name,
        dataset_split=result.split,
        metric_type="accuracy",
        metric_name=f"accuracy, {result.name}",
        metric_value=round(result.accuracy, 4),
        metric_args={
            **({INTERVAL: bounds} if bounds else {}),
            "contexts": result.contexts,
            "queries": result.queries,
            "grader": card.grader,
        },
    )


def scores_table(entries: Sequence[EvalResult]) -> str:
    """The scores of a model index as a table, with who graded and what was asked."""
    if not entries:
        return "Nothing was asked: there were no queries."
    rows = []
    for one in entries:
        args = one.metric_args or {}
        low, high = args.get(INTERVAL, (None, None))
        name = (one.metric_name or "").removeprefix("accuracy, ")
        contexts, queries = str(args.get("contexts", "")), str(args.get("queries", ""))
        interval = say_interval(low, high, args.get("contexts", 0))
        rows.append((one.dataset_split or "", name, f"{one.metric_value:.3f}", interval, contexts, queries))
    shown = to_markdown(Table("", ("split", "", "accuracy", INTERVAL, "contexts", "queries"), tuple(rows)))
    graders = sorted({str((one.metric_args or {}).get("grader", "")) for one in entries})
    names = sorted({markdown_cell(one.dataset_name, 80) for one in entries})
    return (
        f"{shown}\n\nQueries of {', '.join(names)}, asked without the text that answers them and graded by "
        f"`{', '.join(graders)}`. The interval is a bootstrap over contexts."
    )


def add_results(folder: Path, results: Sequence[Result], *, asked_of: Source, grader: str) -> bool:
    """Write further scores into the card of a folder, in place of those of the same split; False where it has no card.

    Raises:
        SavingError: It cannot be written.
    """
    path = folder / CARD
    if not path.is_file() or not results:
        return False
    card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    data: Any = card.data
    name = data.model_name or folder.name
    like = Card(name, "adapter", Origin("", on_hub=False), "", {}, asked_of=asked_of, grader=grader)
    kept = [one for one in data.eval_results or [] if one.dataset_split != results[0].split]
    data.eval_results = [*kept, *(_entry(result, like) for result in results)]
    data.model_name = name
    save_text(path, _text(data, _with_section(card.text, SCORES, scores_table(data.eval_results))))
    return True


def index_card(name: str, folders: Sequence[tuple[str, Path]]) -> str:
    """The card of a repository of several adapters on one base.

    Args:
        name: Of the repository.
        folders: The adapters: their folder in the repository, and here.
    """
    data: Any = ModelCard((folders[0][1] / CARD).read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    base = Origin(
        name=data.base_model,
        on_hub=is_hub_name(str(data.base_model)),
        licence=data.license,
        licence_name=data.license_name,
        licence_link=data.license_link,
        languages=tuple(data.language or ()),
    )
    listed = [f"- [{markdown_cell(inside, 80)}](./{inside}/{CARD})" for inside, _ in folders]
    relation = data.base_model_relation
    what = "adapters for" if relation == "adapter" else "models from"
    made = f"{len(folders)} {what} `{base.name}`, each in a folder with a card of its own, made by `seal adapt`."
    sections = {"Folders": "\n".join(listed), "Licence": licence_of(base)}
    return render(Card(name.rpartition("/")[2], relation, base, made, sections, scored=False))


def _with_section(body: str, heading: str, text: str) -> str:
    """A text with another section below a heading; what else stands below it up to the next heading goes."""
    before, found, rest = body.strip().partition(f"{heading}\n")
    if not found:
        return f"{body.strip()}\n\n{heading}\n\n{text}"
    at = rest.find("\n## ")
    return f"{before}{heading}\n\n{text}\n{rest[at:] if at >= 0 else ''}"


# -- parts of cards ----------------------------------------------------------------------------------------------------


def settings_table(settings: Mapping[str, Any]) -> str:
    """Settings as a table; a dataclass in it gives a row for each of its fields."""
    rows = {}
    for name, value in settings.items():
        fields = asdict(value) if is_dataclass(value) and not isinstance(value, type) else None
        lead = f"{name}: " if name else ""
        rows |= {name: value} if fields is None else {f"{lead}{key}": inner for key, inner in fields.items()}
    cells = ((markdown_cell(key, 60), markdown_cell(str(value), 80)) for key, value in rows.items())
    return to_markdown(Table("", ("", ""), tuple(cells)))


def licence_of(base: Origin) -> str:
    """What is known of the base model's licence, in a sentence."""
    if base.licence is None:
        return f"The licence of `{base.name}` is not known here: look it up before you pass this on."
    named = f" ({base.licence_name})" if base.licence_name else ""
    return f"`{base.name}` is under the licence `{base.licence}`{named}, which holds here too."


def base_of_source(source: ModelSource) -> Origin:
    """What weights are on that are made on this source."""
    name = base_name(source)
    if name in SHIPPED or name.startswith("random/"):  # this package's own, under its licence
        return Origin(name, on_hub=False, licence="apache-2.0", languages=("en",) if name == "lab" else ())
    return origin_of(name, source.revision if name == source.name else None)


def source_of(reader: Any) -> Source:
    """The name of a reader's data.

    Args:
        reader: A reader, or a path as it was given.
    """
    path = str(getattr(reader, "path", reader if isinstance(reader, str | Path) else type(reader).__name__))
    if not Path(path).expanduser().exists() and type(reader).__name__ == "DatasetRows" and "." not in path[:1]:
        return Source(path, on_hub=is_hub_name(path) or "/" not in path)
    return Source(Path(path).expanduser().name or "own data")
