"""Keeps the last checkpoint for resuming and the best round's policy for use.

In the run folder: `checkpoints/last.ckpt` after every M-step, every round and on a signal (and within the M-step where
asked),
`checkpoints/best.ckpt` and `policy/` for the best round by a validation metric. `policy/` is a PEFT folder against the
original base model, and `policy-merged/` whole weights where asked, all in safetensors. Checkpoints hold the adapters
of all rounds, not the base: with LoRA their size is a few percent of the model's.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from seal_lightning.cards.fit import save_policy_card
from seal_lightning.digests import KEY, digests_of
from seal_lightning.errors import CheckpointError, ConfigError, reason_of
from seal_lightning.hooks import SEALCallback
from seal_lightning.saving import SavingError, save_text, whole


class CheckpointSelection(Checkpoint, SEALCallback):
    """Saves every round and remembers the best.

    Args:
        monitor: Metric that decides; rounds without it (no validation data) count as best in turn, and rounds where it
            is nan or infinite never do.
        mode: Whether the metric is better when larger (`max`) or smaller (`min`).
        merged: Also write the best policy as whole weights into `policy-merged/`.
        every_n_steps: Also save `last.ckpt` after every n optimizer steps of the M-step; 0 only at a round's end.
    """

    def __init__(
        self,
        *,
        monitor: str = "val/edits",
        mode: Literal["max", "min"] = "max",
        merged: bool = False,
        every_n_steps: int = 0,
    ) -> None:
        if every_n_steps < 0:
            raise ConfigError(f"checkpoint.every_n_steps must be 0 or more, got {every_n_steps}")
        self.monitor = monitor
        self.mode = mode
        self.merged = merged
        self.every_n_steps = every_n_steps
        self.best: float | None = None
        self.best_round: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_batch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch  # the round's end saves a moment later
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0  # half a step's gradients are in no checkpoint
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if due and stepped and not last_batch:
            pl_module.check_policy()  # type: ignore[operator]
            self._save(trainer, "last")

    def on_m_step_end(self, trainer: Trainer, module: Any) -> None:
        self._save(trainer, "last")  # a crash during validation repeats no M-step

    def on_stop(self, trainer: Trainer, module: Any) -> None:
        module.check_policy()
        self._save(trainer, "last")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        better = trainer.strategy.broadcast(self._is_better(None if value is None else float(value)))
        if better:
            self.best = None if value is None else float(value)
            self.best_round = pl_module.rounds_done
        if better:
            self._export(trainer, pl_module)
            self._save(trainer, "best")
        self._save(trainer, "last")  # after all that is of this round: a run that is killed before repeats its end

    def _is_better(self, value: float | None) -> bool:
        if value is not None and not math.isfinite(value):
            return False  # also where there is no other: what came first would then never be beaten
        if value is None or self.best is None or not math.isfinite(self.best):
            return True
        return value > self.best if self.mode == "max" else value < self.best

    def _save(self, trainer: Trainer, name: str) -> None:
        path = trainer.checkpoints / f"{name}.ckpt"  # type: ignore[attr-defined]
        with _written(path, trainer) as aside:
            trainer.save_checkpoint(aside, weights_only=False)  # optimizer and loops too

    def _export(self, trainer: Trainer, pl_module: Any) -> None:
        run = Path(trainer.default_root_dir)
        wanted = [("policy", False)] + ([("policy-merged", True)] if self.merged else [])
        for name, merged in wanted:
            with _written(run / name, trainer) as aside:
                pl_module.policy.export(aside, merged=merged, write=trainer.is_global_zero)
                if trainer.is_global_zero:
                    save_policy_card(aside, pl_module, merged=merged)
                    chosen = {"round": self.best_round, "monitor": self.monitor, "value": self.best}
                    save_text(aside / "selection.json", json.dumps({**chosen, KEY: digests_of(aside)}) + "\n")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_round": self.best_round}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_round = state_dict["best"], state_dict["best_round"]


@contextmanager
def _written(path: Path, trainer: Trainer) -> Iterator[Path]:
    """A name to write `path` under, which is whole or what it was before; other ranks than the first write nothing.

    Raises:
        CheckpointError: It cannot be written.
    """
    try:
        with whole(path) if trainer.is_global_zero else nullcontext(path) as aside:
            yield aside
    except SavingError as error:
        reason = reason_of(error.cause)
        raise CheckpointError(
            f"{path}: cannot be written ({reason}); what was there before is kept, make room and resume with "
            "--ckpt_path last"
        ) from error
