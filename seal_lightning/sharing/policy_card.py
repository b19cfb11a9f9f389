"""The card of what `seal fit` exports: a policy that writes self-edits, as an adapter or as whole weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seal_lightning.data import SEALDataModule
from seal_lightning.data.datamodule import Split
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.grading import name_of
from seal_lightning.hooks import EditFilter
from seal_lightning.models.origins import CARD, Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.records.journal import read_rollouts, read_validations
from seal_lightning.results.accuracy import AccuracyRow, accuracy_table, rounds_table
from seal_lightning.sampling import LocalSampler, Sampler
from seal_lightning.sharing.card import (
    CardData,
    Relation,
    Result,
    WeightsCard,
    add_results,
    base_of_source,
    data_named,
    render,
)
from seal_lightning.sharing.usage import Asking, usage
from seal_lightning.stamps.arguments import given_arguments
from seal_lightning.tasks import Task
from seal_lightning.text.plural import counted

EXPORTS = {"policy": "", "policy-merged": "-merged"}  # folders of a run, and the suffix of the repository's name
LIMITS = """\
- It writes self-edits, on which a base model is then trained. By itself it does not answer questions any better.
- What it writes about a passage may be wrong: it was rewarded for what helped with its training queries.
- It was trained and measured with the settings above and may do worse with other passages, graders or inner loops."""
GENERATES = (
    "A generator for `{base}`: a network that reads a text in one forward pass of the frozen model, and writes a LoRA "
    "with which the model answers about it."
)
COMMAND = """\
This writes an adapter for each document, as a PEFT folder:

```sh
seal adapt DOCUMENTS --generator {place} --output adapted
```

The folder lies in the run's folder; elsewhere give its path. From the hub, download it first: `hf download NAME
--local-dir {place}`. It takes the Python package `seal-lightning`, and the base model that it was trained beside."""
LIMITS_OF_GENERATOR = """\
- It is of use with this base model alone: it reads that model's states and writes changes of its weights.
- What its adapters answer about a text may be wrong, and what else the model knew may change.
- It was trained and measured with the settings above and may do worse with other texts and queries."""
LICENCE = "The data that it was trained on may have a licence of its own."


def save_policy_card(folder: Path, module: Any, *, merged: bool) -> None:
    """Write the card of a policy that a fit exports into its folder.

    Args:
        folder: The folder of the weights, in the run's folder or on its way there.
        module: The `SEALModule`, within a fit.
        merged: Whether the weights are whole because the user wanted them merged.

    Raises:
        SavingError: The card cannot be written.
    """
    run = Path(module.trainer.default_root_dir)
    policy, source = module.policy.view, module.source
    base = base_of_source(source)
    relation = _relation(module, merged)
    generates = relation == "generator"
    what = {"adapter": "A LoRA for", "merge": "Whole weights of", "finetune": "Fine-tuned weights of"}
    made = (
        f"{what.get(relation)} `{base.name}` that writes self-edits: training data from which a model learns a passage."
    )
    trained, asked_of = data_of(module.datamodule)
    validations = {number: some for number, some in read_validations(run).items() if number <= module.rounds_done}
    rows = rounds_table(validations) if validations else []
    card = WeightsCard(
        title=", ".join(filter(None, (run.resolve().name, "generator" if generates else "policy"))),
        relation=relation,
        base=base,
        made=GENERATES.format(base=base.name) if generates else made,
        sections={"Trained on": _trained_on(trained, module)},
        settings=_settings(module),
        limits=LIMITS_OF_GENERATOR if generates else LIMITS,
        licence=LICENCE,
        results=results_of(rows, "validation"),
        asked_of=asked_of,
        grader=name_of(module.evaluation.grader),
        datasets=[trained.name] if trained.on_hub else [],
        usage=COMMAND.format(place=folder.name)
        if generates
        else _usage(policy, source, base, module.e_step.task, module.e_step.sampler, folder.name, relation),
    )
    save_text(folder / CARD, render(card))


def add_test_results(run: Path, module: Any) -> None:
    """Write the scores of `seal test` into the cards of a run, if the exported policy was the one tested.

    Raises:
        SavingError: A card cannot be written.
    """
    results = results_of(accuracy_table(module.evaluated), "test")
    _, asked_of = data_of(module.datamodule, split="test")
    for name in EXPORTS:
        if _round_of(run / name) == module.rounds_done:
            add_results(run / name, results, asked_of=asked_of, grader=name_of(module.evaluation.grader))


def _round_of(folder: Path) -> int | None:
    """The round after which a policy was exported."""
    try:
        return parse_json((folder / "selection.json").read_bytes())["round"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def results_of(rows: Sequence[AccuracyRow], split: str) -> list[Result]:
    """Rows of the accuracy table as results."""
    names = {"base": "before an edit (base)", "passage": "after training on the passage alone (passage)"}
    return [
        Result(names.get(row.name, row.name), row.accuracy, row.low, row.high, row.contexts, row.queries, split)
        for row in rows
    ]


def data_of(data: SEALDataModule, *, split: Split = "validation") -> tuple[CardData, CardData]:
    """The training data and the data that was asked about, by names without folders."""
    train, asked = data.sources.get("train"), data.sources.get(split)
    fallback = CardData(type(data).__name__)  # a data module that reads its data in its own way
    return data_named(train) if train is not None else fallback, data_named(asked) if asked is not None else fallback


def _usage(
    policy: Policy, source: ModelSource, base: Origin, task: Task, sampler: Sampler, place: str, relation: Relation
) -> str:
    example = task.example()
    if example is None:
        return (
            f"Its task, `{type(task).__module__}.{type(task).__qualname__}`, makes its prompts: "
            "`policy.format(task.prompt(context))`, with `policy` as "
            "`seal_lightning.policy.loading.load_policy` loads it."
        )
    texts = {"title": example.title.strip(), "passage": example.passage.strip()}
    local = sampler if isinstance(sampler, LocalSampler) else LocalSampler()
    sampled = {"temperature": local.temperature, "top_p": local.top_p, "top_k": 0} if local.temperature else {}
    asking = Asking(task.prompt(example), texts, max_new_tokens=local.max_new_tokens, sampled=sampled)
    shown = usage(policy, source, base, place=place, relation=relation, asking=asking)
    others = [each.edit_kind for each in task.by_edit[1:]]
    kind = f" of the kind {task.by_edit[0].edit_kind} (it also writes {', '.join(others)})" if others else ""
    return f"This asks for a self-edit{kind} about a passage:\n\n{shown}"


def _trained_on(data: CardData, module: Any) -> str:
    name = f"[{data.name}](https://huggingface.co/datasets/{data.name})" if data.on_hub else f"`{data.name}`"
    journal = Path(module.trainer.default_root_dir) / "journal"
    rollouts = [each for done in range(module.rounds_done) for each in read_rollouts(journal, f"train-{done:03d}")]
    written = [rollout for rollout in rollouts if rollout.repeat == 0 and rollout.kind == "edit"]
    rejected = sum(rollout.status != "ok" for rollout in written)
    rounds = counted(module.rounds_done, "round")
    if module.tuning.writes == "adapters":
        return f"{len(module.datamodule.train_contexts):,} contexts of {name}, with their queries, in {rounds}."
    return (
        f"{len(module.datamodule.train_contexts):,} contexts of {name}. In {rounds}, {len(written):,} self-edits were "
        f"written about them; {rejected:,} were not usable, and {len(module.kept):,} were kept and imitated in the "
        "last round."
    )


def _relation(module: Any, merged: bool) -> Relation:
    if module.tuning.writes == "adapters":
        return "generator"
    if module.tuning.method == "full":
        return "finetune"
    return "merge" if merged else "adapter"


def _settings_of_generator(module: Any) -> dict[str, object]:
    rows: dict[str, object] = {
        "rounds": module.rounds_done,
        "seed": module.seed,
        "task": type(module.e_step.task).__name__,
    }
    for name, part in (("generator", module.tuning.generator), ("objective", module.objective)):
        rows |= {name: type(part).__name__, **{f"{name}: {key}": one for key, one in given_arguments(part).items()}}
    step = module.e_step
    return {**rows, "reward": step.reward.weights, "grader": name_of(step.grader), "M-step": module.m_step}


def _settings(module: Any) -> dict[str, object]:
    if module.tuning.writes == "adapters":
        return _settings_of_generator(module)
    chosen = [callback for callback in module.trainer.callbacks if isinstance(callback, EditFilter)]
    return {
        "rounds": module.rounds_done,
        "seed": module.seed,
        "task": type(module.e_step.task).__name__,
        "sampler": type(module.e_step.sampler).__name__,
        "filter": ", ".join(type(callback).__name__ for callback in chosen),
        "reward": module.e_step.reward.weights,
        "grader": name_of(module.e_step.grader),
        "E-step": module.e_step.plan,
        "inner loop": module.e_step.inner_loop,
        "M-step": module.m_step,
        "tuning": module.tuning,
    }
