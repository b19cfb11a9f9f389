"""Model cards: which base model the weights belong to, what they learnt, how well, and how they may be used.

The data comes first (`WeightsCard`), the text last (`render`). The format is huggingface_hub's: its `ModelCardData`
writes the metadata, with scores as its model index. No path of this machine is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from seal_lightning import __version__
from seal_lightning.files.saving import save_text
from seal_lightning.models.loading import SHIPPED, base_name
from seal_lightning.models.origins import CARD, Origin, is_hub_name, origin_of
from seal_lightning.models.source import ModelSource
from seal_lightning.results.averages import interval, say_interval
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.text.redaction import safe_to_save
from seal_lightning.types import Context

Relation = Literal["adapter", "finetune", "merge", "generator"]
LIBRARY = {"adapter": "peft", "finetune": "transformers", "merge": "transformers", "generator": "seal-lightning"}
MORE_TAGS: Mapping[Relation, Sequence[str]] = {"adapter": ["lora"], "generator": ["hypernetwork"]}
TAGS = ("seal-lightning", "self-adapting", "arxiv:2506.10943")
SCORES = "## Closed-book accuracy"
INTERVAL = "95 % interval"
OPEN = "open book"  # the result of a model without the adapter that has the document in view


SHOWN = 50  # contexts by name


@dataclass(frozen=True, slots=True)
class CardData:
    """Data under the name that a card gives it: its name on the hub, or that of a file or class without its folder."""

    name: str
    on_hub: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """An accuracy in [0, 1] with its interval.

    Attributes:
        name: What was asked: `before`, `edits after round 2` ...
        accuracy: Mean over contexts.
        low: Lower end of the interval; None if there are too few contexts for one.
        high: Upper end of the interval.
        contexts: Number of contexts.
        queries: Number of queries over all contexts.
        split: Part of the data: `validation`, `test`, or what was learnt itself, such as `documents`.
        asked_of: Other data than the card's, where it is about other things.
    """

    name: str
    accuracy: float
    low: float | None
    high: float | None
    contexts: int
    queries: int
    split: str
    asked_of: CardData | None = None


@dataclass(frozen=True, slots=True)
class WeightsCard:
    """What a card says.

    Attributes:
        title: Title of the card, and the model's name in its model index.
        relation: What the weights are to their base.
        base: The base model.
        made: One sentence about what they are.
        command: The command that made them.
        sections: Further text by heading, in order.
        settings: Settings for a table; a dataclass gives a row for each of its fields. None for no table.
        limits: Markdown about what the weights cannot do.
        licence: What holds besides the base model's licence.
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
    command: str = "fit"
    sections: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] | None = None
    limits: str = ""
    licence: str = ""
    results: Sequence[Result] = ()
    asked_of: CardData = CardData("own data")
    grader: str = ""
    datasets: Sequence[str] = ()
    usage: str = ""
    scored: bool = True


def render(card: WeightsCard) -> str:
    """The text of a README.md."""
    known = card.base.licence is not None
    data = ModelCardData(
        base_model=card.base.name,
        base_model_relation=None if card.relation == "generator" else card.relation,  # the hub knows no such thing
        license=card.base.licence,
        license_name=card.base.licence_name if known else None,
        license_link=card.base.licence_link if known else None,
        language=list(card.base.languages) or None,
        datasets=sorted(set(card.datasets)) or None,
        library_name=LIBRARY[card.relation],
        pipeline_tag=None if card.relation == "generator" else "text-generation",
        tags=[*TAGS, *MORE_TAGS.get(card.relation, ())],
        model_name=card.title,
        eval_results=[_entry(result, card.asked_of, card.grader) for result in card.results] or None,
    )
    if not card.results:
        data.model_name = None
    source = f"Made by `seal {card.command}` of seal-lightning {__version__} (SEAL, arXiv:2506.10943)."
    parts = {
        f"# {markdown_cell(card.title, 100)}": f"{card.made} {source}",
        "## How to use it": card.usage,
        SCORES: scores_table(data.eval_results or []) if card.scored else "",
        **{f"## {name}": text for name, text in card.sections.items()},
        "## Settings": settings_table(card.settings) if card.settings else "",
        "## Limitations": card.limits,
        "## Licence": f"{licence_of(card.base)} {card.licence}".strip(),
    }
    return _text(data, "\n\n".join(f"{head}\n\n{text}" for head, text in parts.items() if text))


def _text(data: ModelCardData, body: str) -> str:
    return safe_to_save(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n")


def _entry(result: Result, asked_of: CardData, grader: str) -> EvalResult:
    asked_of = result.asked_of or asked_of
    bounds = None if result.low is None or result.high is None else [round(result.low, 4), round(result.high, 4)]
    return EvalResult(
        task_type="question-answering",
        task_name="Closed-book questions",
        dataset_type="-".join(asked_of.name.split()),
        dataset_name=asked_of.name,
        dataset_split=result.split,
        metric_type="accuracy",
        metric_name=f"accuracy, {result.name}",
        metric_value=round(result.accuracy, 4),
        metric_args={
            **({INTERVAL: bounds} if bounds else {}),
            "contexts": result.contexts,
            "queries": result.queries,
            "grader": grader,
        },
    )


def scores_table(entries: Sequence[EvalResult]) -> str:
    """The scores of a model index as a table, with who graded and what was asked."""
    if not entries:
        return "Nothing was asked: there were no queries."
    rows = []
    for entry in entries:
        args = entry.metric_args or {}
        low, high = args.get(INTERVAL, (None, None))
        name = (entry.metric_name or "").removeprefix("accuracy, ")
        contexts, queries = str(args.get("contexts", "")), str(args.get("queries", ""))
        shown_interval = say_interval(low, high, args.get("contexts", 0))
        rows.append((entry.dataset_split or "", name, f"{entry.metric_value:.3f}", shown_interval, contexts, queries))
    shown = to_markdown(Table("", ("split", "", "accuracy", INTERVAL, "contexts", "queries"), tuple(rows)))
    graders = sorted({str((entry.metric_args or {}).get("grader", "")) for entry in entries})
    names = sorted({markdown_cell(entry.dataset_name, 80) for entry in entries})
    opened = any(row[1] == OPEN for row in rows)
    but = f" ({OPEN}: with it, and without these weights)" if opened else ""
    view = f"asked without the text that answers them{but}"
    return (
        f"{shown}\n\nQueries of {' and '.join(names)}, {view} and graded by `{', '.join(graders)}`. The interval is "
        "a bootstrap over contexts."
    )


def add_results(folder: Path, results: Sequence[Result], *, asked_of: CardData, grader: str) -> bool:
    """Write further scores into the card of a folder, in place of those of the same split; False if it has no card.

    Raises:
        SavingError: The card cannot be written.
    """
    path = folder / CARD
    if not path.is_file() or not results:
        return False
    text, data = _read(path)
    kept = [entry for entry in data.eval_results or [] if entry.dataset_split != results[0].split]
    data.eval_results = [*kept, *(_entry(result, asked_of, grader) for result in results)]
    data.model_name = data.model_name or folder.name
    save_text(path, _text(data, _with_section(text, SCORES, scores_table(data.eval_results))))
    return True


def _read(path: Path) -> tuple[str, ModelCardData]:
    """The text of a card below its metadata, and those."""
    card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    assert isinstance(card.data, ModelCardData)
    return card.text, card.data


def index_card(name: str, folders: Sequence[tuple[str, Path]]) -> str:
    """The card of a repository of several adapters on one base.

    Args:
        name: The repository's name.
        folders: Each adapter's folder in the repository, and its folder here.
    """
    _, data = _read(folders[0][1] / CARD)
    base = Origin(
        name=str(data.base_model),
        on_hub=is_hub_name(str(data.base_model)),
        licence=data.license,
        licence_name=data.license_name,
        licence_link=data.license_link,
        languages=tuple(data.language or ()),
    )
    listed = [f"- [{markdown_cell(inside, 80)}](./{inside}/{CARD})" for inside, _ in folders]
    relation: Relation = "merge" if data.to_dict().get("base_model_relation") == "merge" else "adapter"
    what = "adapters for" if relation == "adapter" else "models from"
    made = f"{len(folders)} {what} `{base.name}`, each in a folder with a card of its own."
    title, sections = name.rpartition("/")[2], {"Folders": "\n".join(listed)}
    return render(WeightsCard(title, relation, base, made, command="adapt", sections=sections, scored=False))


def _with_section(body: str, heading: str, text: str) -> str:
    """The body with the section below a heading replaced, or added at the end."""
    before, existing, rest = body.strip().partition(f"{heading}\n")
    if not existing:
        return f"{body.strip()}\n\n{heading}\n\n{text}"
    at = rest.find("\n## ")
    return f"{before}{heading}\n\n{text}\n{rest[at:] if at >= 0 else ''}"


def result_of(name: str, accuracies: Sequence[float], *, queries: int, split: str) -> Result:
    """A result from the accuracy of each context, at least one."""
    return Result(name, fmean(accuracies), *interval(accuracies), len(accuracies), queries, split)


def titles_of(contexts: Sequence[Context], *, bullet: str) -> str:
    """A Markdown list of contexts by title, the first of them where there are many."""
    lines = [f"{bullet} {markdown_cell(context.title or context.id, 100)}" for context in contexts[:SHOWN]]
    return "\n".join(lines + ([f"\nand {len(contexts) - SHOWN} more"] if len(contexts) > SHOWN else []))


def settings_table(settings: Mapping[str, object]) -> str:
    """Settings as a table, and the version that they were used with."""
    rows: dict[str, object] = {}
    for name, value in {**settings, "seal-lightning": __version__}.items():
        fields = asdict(value) if is_dataclass(value) and not isinstance(value, type) else None
        lead = f"{name}: " if name else ""
        rows |= {name: value} if fields is None else {f"{lead}{key}": inner for key, inner in fields.items()}
    cells = ((markdown_cell(key, 60), markdown_cell(str(value), 80)) for key, value in rows.items())
    return to_markdown(Table("", ("", ""), tuple(cells)))


def licence_of(base: Origin) -> str:
    """A sentence about the base model's licence."""
    if base.licence is None:
        return f"The licence of `{base.name}` is not known here: look it up before you pass this on."
    named = f" ({base.licence_name})" if base.licence_name else ""
    return f"`{base.name}` is under the licence `{base.licence}`{named}, which holds here too."


def base_of_source(source: ModelSource) -> Origin:
    """The base model of weights that were made on this source."""
    name = base_name(source)
    if name in SHIPPED or name.startswith("random/"):  # this package's own, under its licence
        return Origin(name, on_hub=False, licence="apache-2.0", languages=("en",) if name == "lab" else ())
    return origin_of(name, source.revision if name == source.name else None)


def data_named(reader: object) -> CardData:
    """What a card calls the data of a reader, or of a path as it was given."""
    path = str(getattr(reader, "path", reader if isinstance(reader, str | Path) else type(reader).__name__))
    if not Path(path).expanduser().exists() and type(reader).__name__ == "DatasetRows" and "." not in path[:1]:
        return CardData(path, on_hub=is_hub_name(path) or "/" not in path)
    return CardData(Path(path).expanduser().name or "own data")
