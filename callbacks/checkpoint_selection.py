"""Keeps the last checkpoint for resuming and the best policy for use.

The run folder gets `checkpoints/last.ckpt` after every M-step, every round and on a signal (and within the M-step on
request), and `checkpoints/best.ckpt` and `policy/` for the best round by a validation metric. `policy/` is a PEFT
folder against the original base model; `policy-merged/` holds whole weights on request. Checkpoints hold the adapters
of all rounds, not the base: with LoRA their size is a few percent of the model's.

The untrained policy is a candidate, too. Where no round beats it, `best.ckpt` is the untrained policy, and there is no
`policy/`. What there was to choose from is in `selection.json` (verdict.py).
"""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from seal_lightning.errors import CheckpointError, ConfigError, reason_of
from seal_lightning.files.digests import KEY, digests_of
from seal_lightning.files.saving import SavingError, move, save_text, whole
from seal_lightning.hooks import RunModule, RunTrainer, SEALCallback
from seal_lightning.policy.tuned import check_mergeable
from seal_lightning.results import verdict
from seal_lightning.results.accuracy import means_of, paired_difference
from seal_lightning.results.verdict import ACCURACIES, Candidate, Mode, Selection
from seal_lightning.sharing.policy_card import save_policy_card

log = logging.getLogger(__name__)

UNTRAINED = "untrained"  # the checkpoint of the untrained policy until a round has ended
POLICIES = ("policy", "policy-merged")
EARLIER = "-of-an-earlier-start"


class CheckpointSelection(Checkpoint, SEALCallback):
    """Saves every round and remembers the best.

    Args:
        monitor: Metric that decides. Without validation data nothing has it, and each round counts as the best so far.
            Rounds without it do not count where others have it, and rounds where it is nan or infinite never do.
        mode: Whether the metric is better when larger (`max`) or smaller (`min`).
        include_untrained: Whether the policy before the first round can be the best one, as it is where no round beats
            it; needs `trainer.validate_first` and a metric of the validation. Else rounds are compared with each other.
        merged: Also write the best policy as whole weights into `policy-merged/`.
        every_n_steps: Also save `last.ckpt` after every n optimizer steps of the M-step; 0 only at a round's end.
    """

    def __init__(
        self,
        *,
        monitor: str = "val/edits",
        mode: Mode = "max",
        include_untrained: bool = True,
        merged: bool = False,
        every_n_steps: int = 0,
    ) -> None:
        if every_n_steps < 0:
            raise ConfigError(f"checkpoint.every_n_steps must be 0 or more, got {every_n_steps}")
        self.monitor = monitor
        self.mode: Mode = mode
        self.include_untrained = include_untrained
        self.merged = merged
        self.every_n_steps = every_n_steps
        self.selection = Selection(monitor, mode)
        self._before: dict[str, float] = {}  # the untrained policy's accuracy by context
        self._validated: int | None = None  # rounds before the last validation of this start

    @property
    def best_round(self) -> int | None:
        """The round of the best policy, 0 where that is the untrained one; None where there is none yet."""
        return self.selection.best

    @property
    def best(self) -> float | None:
        """The monitored metric of the best policy; None where it was not measured."""
        chosen = self.selection.chosen
        return chosen.value if chosen is not None else None

    def setup(self, trainer: RunTrainer, pl_module: RunModule, stage: str) -> None:
        """Refuse what cannot be exported before any work."""
        if stage == "fit":
            check_mergeable(pl_module.tuning, self.merged)

    def on_train_batch_end(
        self, trainer: RunTrainer, pl_module: RunModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        last_batch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch  # the round's end saves a moment later
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0  # half a step's gradients are in no checkpoint
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if due and stepped and not last_batch:
            pl_module.check_policy()
            self._save(trainer, "last")

    def on_m_step_end(self, trainer: RunTrainer, module: RunModule) -> None:
        self._save(trainer, "last")  # a crash during validation does not repeat the M-step

    def on_stop(self, trainer: RunTrainer, module: RunModule) -> None:
        module.check_policy()
        self._save(trainer, "last")

    # -- choosing --------------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated = pl_module.rounds_done
        if pl_module.rounds_done or not self.include_untrained:
            return
        value = self._value(trainer)
        if value is None or not math.isfinite(value):
            reason = f"{self.monitor} is not measured on it" if value is None else f"its {self.monitor} is {value}"
            self.selection = Selection(self.monitor, self.mode, left_out=reason)
            return
        self._before = self._by_context(pl_module)
        self.selection = Selection(self.monitor, self.mode, 0, (Candidate(0, value),))
        self._save(trainer, UNTRAINED)

    def on_train_epoch_end(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        round = pl_module.rounds_done
        candidate = trainer.strategy.broadcast(self._candidate(trainer, pl_module))
        others = tuple(one for one in self.selection.candidates if one.round < round)
        selection = replace(self.selection, candidates=(*others, candidate), left_out=self._why_left_out(trainer))
        better = self._is_better(candidate)
        self.selection = replace(selection, best=round) if better else selection
        if better:
            self._export(trainer, pl_module)
            self._save(trainer, "best")
        elif self._is_untouched():
            self.selection = replace(selection, best=0)
            self._save(trainer, "best")
        if self.best_round == 0:
            self._keep_untrained(trainer)
        if trainer.is_global_zero:
            (trainer.checkpoints / f"{UNTRAINED}.ckpt").unlink(missing_ok=True)
            verdict.save(Path(trainer.default_root_dir), self.selection)
            change = candidate.difference
            worse = change is not None and change.is_clear and self.selection.is_better(0.0, change.mean)
            log.log(logging.WARNING if worse else logging.INFO, "%s", verdict.said_of_round(self.selection, candidate))
        self._save(trainer, "last")  # after all that is of this round: a run that is killed before repeats its end

    def _candidate(self, trainer: RunTrainer, pl_module: RunModule) -> Candidate:
        """The policy after this round."""
        value = self._value(trainer)
        stale = self._validated != pl_module.rounds_done  # no validation in this round: its metrics are older
        after = {} if stale else self._by_context(pl_module)
        if self.monitor in ACCURACIES:
            value = value if after else None
        elif stale and self.selection.untrained is not None:
            value = None
        learnt = len(pl_module.kept) if pl_module.taught else 0  # kept edits that do not differ teach nothing
        return Candidate(pl_module.rounds_done, value, learnt, paired_difference(after, self._before))

    def _value(self, trainer: RunTrainer) -> float | None:
        value = trainer.callback_metrics.get(self.monitor)
        return None if value is None else float(value)

    def _by_context(self, pl_module: RunModule) -> dict[str, float]:
        """The accuracies that the metric is the mean of, by context; empty where it is another kind of metric."""
        name = ACCURACIES.get(self.monitor)
        return means_of(pl_module.evaluated, name) if name else {}

    def _why_left_out(self, trainer: RunTrainer) -> str:
        """Why the untrained policy is not a candidate."""
        if not self.include_untrained:
            return "checkpoint.include_untrained is false"
        if self.selection.untrained is not None or self.selection.left_out:
            return self.selection.left_out
        if not trainer.enable_validation:
            return "there is no validation data"
        return "it was not validated, with trainer.validate_first false"

    def _is_better(self, candidate: Candidate) -> bool:
        """Whether a round is better than the best policy so far; `selection` still ends with the round before."""
        value, best = candidate.value, self.best
        if value is not None and not math.isfinite(value):
            return False  # also where there is no other: what came first would then never be beaten
        if self.include_untrained and not candidate.learnt and (self.best_round is not None or self._is_untouched()):
            return False  # it is the policy that was there before
        if value is None:
            return best is None
        return best is None or not math.isfinite(best) or self.selection.is_better(value, best)

    def _is_untouched(self) -> bool:
        """Whether the policy is still the untrained one, without a value that tells so."""
        return self.include_untrained and self.best_round is None and not any(o.learnt for o in self.selection.rounds)

    # -- writing ---------------------------------------------------------------------------------------------------

    def _keep_untrained(self, trainer: RunTrainer) -> None:
        """No round is better so far: `best.ckpt` is the untrained policy, and one of an earlier start makes way."""
        if not trainer.is_global_zero:
            return
        run, place = Path(trainer.default_root_dir), trainer.checkpoints
        if (untrained := place / f"{UNTRAINED}.ckpt").exists():
            move(untrained, place / "best.ckpt")
        for name in POLICIES:
            if (run / name).exists():
                move(run / name, run / f"{name}{EARLIER}")
                log.warning(
                    "%s was of an earlier start, and no round of this one beats the untrained policy so far: it is %s "
                    "now",
                    run / name,
                    f"{name}{EARLIER}",
                )

    def _save(self, trainer: RunTrainer, name: str) -> None:
        path = trainer.checkpoints / f"{name}.ckpt"
        with _written(path, trainer) as aside:
            trainer.save_checkpoint(aside, weights_only=False)  # optimizer and loops too

    def _export(self, trainer: RunTrainer, pl_module: RunModule) -> None:
        run = Path(trainer.default_root_dir)
        wanted = [("policy", False)] + ([("policy-merged", True)] if self.merged else [])
        for name, merged in wanted:
            with _written(run / name, trainer) as aside:
                pl_module.policy.export(aside, merged=merged, write=trainer.is_global_zero)
                if trainer.is_global_zero:
                    save_policy_card(aside, pl_module, merged=merged)
                    chosen = {"round": self.best_round, "monitor": self.monitor, "value": self.best}
                    save_text(aside / "selection.json", json.dumps({**chosen, KEY: digests_of(aside)}) + "\n")

    def state_dict(self) -> dict[str, object]:
        return {"selection": verdict.to_dict(self.selection), "before": dict(self._before)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "selection" in state_dict:
            self.selection, self._before = verdict.from_dict(state_dict["selection"]), dict(state_dict["before"])
        elif state_dict["best_round"] is not None:  # of an earlier version, which compared rounds only
            best = Candidate(int(state_dict["best_round"]), state_dict["best"], 1)
            self.selection = Selection(self.monitor, self.mode, best.round, (best,), "an earlier version did not")


@contextmanager
def _written(path: Path, trainer: RunTrainer) -> Iterator[Path]:
    """A name to write `path` under, which is whole or what it was before; other ranks than the first write nothing.

    Raises:
        CheckpointError: The file cannot be written.
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
