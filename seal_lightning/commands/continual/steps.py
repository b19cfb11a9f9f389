"""The steps of a stream on disk: each is a folder that is complete or not there at all.

It holds the adapter that was added, as a PEFT folder, and `step.json` with what was answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import PreTrainedModel

from seal_lightning.e_step.closed_book import Answered
from seal_lightning.errors import JournalError, misread
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.digests import KEY, digests_of
from seal_lightning.files.saving import save_text, whole
from seal_lightning.models.lora import LoRA, save_lora

RECORD = "step.json"


@dataclass(frozen=True, slots=True)
class StreamStep:
    """What was answered after a step; step 0 learns nothing.

    Attributes:
        chosen: Which of the step's rollouts was learnt, by its place; None where none could be.
        answered: Answers on the contexts so far (at step 0 on all), in the stream's order.
        unrelated: Answers on the unrelated contexts.
        left_out: Counts of what was cut or skipped in training the update, and of cut answers.
        share: By how much a countermeasure scaled the update, 0 if it refused it; None where it did something else to
            it, and where there is none.
    """

    chosen: int | None
    answered: tuple[Answered, ...]
    unrelated: tuple[Answered, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    share: float | None = None


def write_step(
    place: Path, step: StreamStep, asked: Sequence[str], *, lora: LoRA | None, model: PreTrainedModel
) -> None:
    """Write a finished step; returns once it and its adapter are on disk.

    Args:
        place: The folder of the step.
        step: What was answered.
        asked: Ids of the contexts, for readers of the file.
        lora: The update, if there is one.
        model: The model that the update is for.

    Raises:
        SavingError: The step cannot be written.
    """
    with whole(place) as folder:
        folder.mkdir()
        if lora is not None:
            save_lora(lora, folder, model=model)
        content = {**asdict(step), "contexts": asked, KEY: digests_of(folder)}
        save_text(folder / RECORD, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_step(place: Path) -> StreamStep | None:
    """A finished step; None if there is none.

    Raises:
        JournalError: The step cannot be read.
    """
    path = place / RECORD
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_bytes())
        answered, unrelated = (tuple(map(Answered.from_dict, content[name])) for name in ("answered", "unrelated"))
        chosen, left_out, share = content["chosen"], content.get("left_out", {}), content.get("share")
        if not all(
            type(number) is int and number >= 0 for number in (0 if chosen is None else chosen, *left_out.values())
        ):
            raise ValueError("chosen and the counts in left_out must be whole numbers of at least 0")
        if not (share is None or (isinstance(share, int | float) and 0 <= share <= 1)):
            raise ValueError("share must be from 0 to 1")
        return StreamStep(chosen, answered, unrelated, left_out, share)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JournalError(
            f"{path}: expected a step of seal continual, got another file ({misread(error)}): remove its folder"
        ) from error
