"""All weights of the policy trained on all documents (`--tuning full`): a model folder of its own instead of a LoRA.

    job -> trained in place, with checkpoints -> asked closed-book -> `weights/all`

A training that was broken off goes on from its checkpoint, which holds the weights in float32 and AdamW's moments, and
ends with the same bits on a CPU.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from seal_lightning.commands.adapt.folders import facts_of, write_whole
from seal_lightning.commands.adapt.jobs import Adapter, Answers, Workplace
from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.errors import misread
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.served import save_tensors
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.inner_loop.whole import WholeState, WholeTraining, whole_training
from seal_lightning.models.finite import all_finite, rows_finite

log = logging.getLogger(__name__)

LABEL = "one model for all"


def make_whole(place: Workplace, adapter: Adapter) -> Answers | str:
    """Train, measure and write the model; what it answers, or why it was not written.

    Afterwards the policy has these weights.

    Raises:
        ConfigError: The folder holds a model that was trained with other settings, or the weights cannot be trained.
        NoMemoryError: The memory does not suffice.
    """
    state = place.output / "training" / f"{adapter.name}.safetensors"
    stamp = "-".join([place.stamp, adapter.stamp])
    assert adapter.inner_loop is not None, "no generator trains weights"
    training = whole_training(adapter.inner_loop, place.policy, adapter.job)
    start, before = _load(state, stamp)
    if start is None:
        before = training.plan.loss_under(place.policy.model)
    stats = _trained(place, training, start, before, state, stamp)
    after = training.plan.loss_under(place.policy.model)
    reason = stats.diverged or ("" if _is_sound(place, training) else "its outputs on its own text are not finite")
    answers = {} if reason else _ask(place, adapter)
    if answers is None:
        reason = "the logits of its answers are not finite"
    if reason or answers is None:
        said = f"its training diverged ({reason}): lower together.learning_rate and start again in another --output"
        place.screen.line(f"{adapter.name}: not written, because {said}")
        state.unlink(missing_ok=True)
        return said
    losses = None if before is None or after is None else (before, after)
    write_whole(place, adapter, stats, answers, facts_of(place, adapter, stats, answers, losses))
    state.unlink(missing_ok=True)
    return answers


def _trained(
    place: Workplace,
    training: WholeTraining,
    start: WholeState | None,
    before: float | None,
    state: Path,
    stamp: str,
) -> JobStats:
    def keep(reached: WholeState) -> None:
        where = {"step": reached.step, "loss": reached.loss, "before": before}
        save_tensors(reached.tensors, state, metadata={"stamp": stamp, "state": json.dumps(where)})
        place.check_stop()

    with place.screen.bar(f"{LABEL}, training steps", training.plan.stats.steps) as advance:
        return training.run(start, every=place.every_steps, keep=keep, on_step=advance)


def _load(path: Path, stamp: str) -> tuple[WholeState | None, float | None]:
    """Where the training with this stamp stands, and its text's loss before it; None without such a checkpoint."""
    if not path.is_file():
        return None, None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("stamp") != stamp:
                return None, None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        where = parse_json(metadata["state"])
        if not all_finite(tensors.values()):
            raise ValueError("it has numbers that are not finite")
        return WholeState(int(where["step"]), float(where["loss"]), tensors), where["before"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: cannot be read (%s), so the training starts over", path, misread(error))
        return None, None


@torch.no_grad()
def _is_sound(place: Workplace, training: WholeTraining) -> bool:
    """Whether the logits of the first training sequence are finite."""
    if not training.plan.sequences:
        return True
    ids = torch.tensor([training.plan.sequences[0].tokens], device=place.policy.device)
    return bool(rows_finite(place.policy.model(input_ids=ids, use_cache=False).logits[0]).all())


def _ask(place: Workplace, adapter: Adapter) -> Answers | None:
    """What the trained policy answers on the documents; None where its logits are not finite."""
    documents = [lesson.document for lesson in adapter.lessons if lesson.document.context.queries]
    broken: list[int] = []
    contexts = [document.context for document in documents]
    with place.screen.bar(f"{LABEL}, measured", 1), place.screen.phases() as report:
        scored = ask_closed_book(place.e_step, place.policy, contexts, report=report, on_diverged=broken.append)
    return None if broken else {document.id: one for document, one in zip(documents, scored, strict=True)}
