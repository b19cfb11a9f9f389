"""The LightningModule: it owns the policy, builds the E-step from its parts, and is what the M-step trains.

One Lightning epoch is one round. The E-step runs in the fit loop (`loop.py`); `training_step` is a batch of the M-step,
whose course is in `course.py`; validation and test adapt to held-out contexts and report the paper's three numbers:
base (no adapter), passage (adapter trained on the passage alone), edits (adapter trained on one self-edit).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from seal_lightning.data import SEALDataModule
from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.predictions import UnitRows
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.errors import ConfigError, DivergedError, Stopped, check_count
from seal_lightning.fit.base import FitModule, FitTrainer
from seal_lightning.fit.checkpoint_file import Checkpoint
from seal_lightning.fit.checks import check_filter, measured_alike
from seal_lightning.fit.course import Course
from seal_lightning.fit.divergence import Divergence
from seal_lightning.fit.phases import Phases
from seal_lightning.fit.restoring import restored, saved_state, settings_of_module
from seal_lightning.fit.stamp import begin_run, tokenizer_digest
from seal_lightning.grading import Grader, Reward, Rubric, resolve
from seal_lightning.grading.reward import RewardOption
from seal_lightning.hooks import EditFilter, notify
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.batches import MStep
from seal_lightning.m_step.objectives import Figures, Taught
from seal_lightning.m_step.training import make_optimizer, seed_batch
from seal_lightning.models.finite import all_finite
from seal_lightning.models.loading import fingerprint, load_model
from seal_lightning.models.precision import sparing_float32
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.results.accuracy import evaluation_means
from seal_lightning.results.left_out import tell_left_out
from seal_lightning.sampling import Answerer, LocalAnswerer, LocalSampler, Sampler, ServerAnswerer, ServerSampler
from seal_lightning.stamps.run import Record
from seal_lightning.tasks import Knowledge, Task
from seal_lightning.types import RolloutGroup

log = logging.getLogger(__name__)


class SEALModule(FitModule):
    """A self-adapting language model.

    Args:
        source: The base model.
        tuning: How the M-step changes the policy.
        task: What a context is, how edits are prompted and parsed.
        sampler: Where self-edits come from.
        evaluation_sampler: Source of the self-edits of validation and test; null is `sampler`, or the policy itself
            where that takes them from outside.
        inner_loop: How the temporary adapters are trained.
        grader: Scores one answer in [0, 1]: `calibrated`, `recall`, `contains`, `exact_match`, `f1`, `judge` (the
            policy itself), or a class of your own.
        reward: One of the terms `score`, `gain`, `improved`, `precision`, `length`, `format`, `carry_over`,
            `diversity`, or a function or `RewardTerm` of your own (`my_module.my_term`), or weights of several, for
            example `{score: 1.0, length: -0.1}`, or a list of `{term: ..., weight: ...}`.
        rubric: How edits are marked where `e_step.score_by` is `rubric`.
        query_writer: Writes queries where `e_step.queries` is `own`.
        e_step: Edits and repeats a training context, and how they are scored.
        evaluation: Edits and repeats a validation or test context.
        m_step: How the policy is fine-tuned on the edits of a round.
        max_answer_tokens: Longest closed-book answer.
        answer_batch: Queries answered together; null takes 64 on a CPU, and on a GPU from 32 to 512, as many as its
            free memory takes.
        answerer: Who answers with the adapters; null is the policy itself.
        predict: What `seal predict` does: `edits` writes self-edits; `answers` also adapts to each of them, as
            `evaluation` says, and answers the queries of the data, which need no known answers.
        seed: Seed of everything random in the run; `seed_everything` is not needed.
    """

    tuned: TunedPolicy | None = None
    _compared = False  # whether the run was compared with the checkpoint that it resumes from

    def __init__(
        self,
        source: ModelSource = ModelSource(),
        tuning: PolicyTuning = PolicyTuning(),
        task: Task | None = None,
        sampler: Sampler | None = None,
        evaluation_sampler: Sampler | None = None,
        inner_loop: InnerLoop = InnerLoop(),
        grader: Grader | str = "calibrated",
        reward: RewardOption = "score",
        rubric: Rubric | None = None,
        query_writer: QueryWriter | None = None,
        e_step: Plan = Plan(),
        evaluation: Plan = Plan(edits=1, repeats=1, passage_only=True),
        m_step: MStep = MStep(),
        max_answer_tokens: int = 64,
        answer_batch: int | None = None,
        answerer: Answerer | None = None,
        predict: Literal["edits", "answers"] = "edits",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if predict not in ("edits", "answers"):
            raise ConfigError(f"predict must be edits or answers, got {predict!r}: use one of them")
        self.answers_queries = predict == "answers"
        self.source, self.tuning, self.m_step, self.seed = source, tuning, m_step, seed
        check_count("max_answer_tokens", max_answer_tokens)
        local, weighed = LocalAnswerer(answer_batch), Reward(reward)
        self.parts = EStep(
            task=task or Knowledge(),
            sampler=sampler or LocalSampler(),
            inner_loop=inner_loop,
            grader=resolve(grader),
            reward=weighed,
            seed=seed,
            max_answer_tokens=max_answer_tokens,
            answerer=answerer or local,
        )
        self.rubric, self.query_writer = rubric or Rubric(), query_writer or QueryWriter()
        evaluation = measured_alike(evaluation, e_step, weighed)
        self.e_step = self.step_for(e_step)
        if evaluation_sampler is None:
            evaluation_sampler = LocalSampler() if self.parts.sampler.from_outside else self.parts.sampler
        self.evaluation = replace(self.parts, plan=evaluation, sampler=evaluation_sampler)
        used = (self.parts.sampler, self.parts.answerer, evaluation_sampler)
        if tuning.method == "full" and any(isinstance(part, ServerSampler | ServerAnswerer) for part in used):
            raise ConfigError("tuning.method must be lora where a server holds the base model, got full")
        self.kept, self.taught, self.evaluated = [], [], []
        self.e_step_metrics, self.m_step_metrics, self.limits, self.base_stamp = {}, {}, {}, {}
        self.phases, self.divergence, self.course = Phases(self), Divergence(self), Course(self)
        self.record = Record({})
        self.strict_loading = False

    def step_for(self, plan: Plan) -> EStep:
        """The E-step of a plan, with this module's parts."""
        return step_for(plan, self.parts, rubric=self.rubric, query_writer=self.query_writer)

    # -- the policy ------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """No callbacks; this is the first of Lightning's hooks, where another trainer is refused before any work."""
        if not isinstance(self.trainer, FitTrainer):
            kind = type(self.trainer)
            raise ConfigError(
                f"trainer: expected a seal_lightning.SEALTrainer, got {kind.__module__.partition('.')[0]}."
                f"{kind.__qualname__}: SEAL's rounds need its loop, and it takes the same options"
            )
        return []

    def setup(self, stage: str) -> None:
        self._compared = False
        self.trainer.folder.share_refusal()
        self.limits = self.phases.limits(stage)  # before the model is loaded: less than a unit is refused
        self.configure_model()  # DeepSpeed's stage 3 would build it in pieces later, which not every model stands
        self.trainer.executor.begin(self.trainer, self, units=self.phases.most_units(stage))

    def configure_model(self) -> None:
        """Load the policy, once."""
        if self.tuned is None:
            model, tokenizer, chat = load_model(self.source)
            self.base_fingerprint = fingerprint(model)
            tokens = tokenizer_digest(tokenizer)
            self.tuned = self.tuning.policy_of(
                model, tokenizer, chat, seed=self.seed, reload=lambda: load_model(self.source)[0]
            )
            chatting = self.tuned.view.chat_stamp
            self.base_stamp = {"base": self.base_fingerprint, "tokenizer": tokens, "chat": chatting}
            self.model = self.tuned.module.train()
            if self._trainer is not None:  # before a checkpoint's rounds are merged, as it was when they ended
                with sparing_float32(self.tuned.module):
                    self._trainer.precision_plugin.convert_module(self.tuned.module)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As torch's; half precision, to which Lightning's strategies convert it, spares what must be exact."""
        with sparing_float32(self):
            return super().to(*args, **kwargs)

    @property
    def policy(self) -> TunedPolicy:
        assert self.tuned is not None, "configure_model() makes the policy"
        return self.tuned

    @property
    def datamodule(self) -> SEALDataModule:
        return self.trainer.datamodule

    # -- M-step ----------------------------------------------------------------------------------------------------

    def teaches(self, groups: Sequence[RolloutGroup]) -> Sequence[Taught]:
        """What the M-step learns of a round whose edits were kept; a collective."""
        return self.course.taught(groups)

    def train_dataloader(self) -> DataLoader:
        """The batches of a round's M-step, which begins now; a collective."""
        self.divergence.begin()
        return self.course.loader(self.taught)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        place = batch_idx * self.trainer.world_size + self.global_rank  # in the round, over all ranks
        number = self.trainer.shares.number(place, self.batches)
        seed_batch(self.seed, self.current_epoch, number, device=self.device)
        loss, figures, size = self.batch_loss(batch)
        self.divergence.losses.append(loss.detach())
        self.course.note(number, loss, figures)
        if not self.trainer.barebones:  # which would warn, though it is not the user who logs
            self.log("m_step/loss", loss, prog_bar=True, on_step=True, batch_size=size)
            for name, value in figures.items():
                self.log(f"m_step/{name}", value, on_step=True, batch_size=size)
        return loss * self.trainer.shares.weight(number)

    def batch_loss(self, batch: Any) -> tuple[torch.Tensor, Figures, int]:
        """The mean loss of a batch of the M-step, figures beside it, and how many items it has."""
        return *self.m_step.goal.batch_loss(self.model, batch), len(batch["values"])

    def end_m_step(self) -> dict[str, float]:
        return self.course.end()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.divergence.note_gradient()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step. Raises `DivergedError` where the policy is not finite afterwards: it goes no further."""
        super().optimizer_step(*args, **kwargs)
        self.divergence.check_step()

    def check_policy(self) -> None:
        self.divergence.check_policy()

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """After an optimizer step, stop where a signal asked any rank to; the round's end stops a moment later."""
        steps_done, rest = divmod(batch_idx + 1, self.trainer.accumulate_grad_batches)
        if rest or steps_done == self.optimizer_steps:
            return
        processes = self.trainer.processes
        if number := processes.largest(processes.stop_wanted()):  # of all ranks
            notify(self.trainer, self, "on_stop")
            raise Stopped(number)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = make_optimizer(self.parameters(), self.m_step, device=self.trainer.strategy.root_device)
        # the number of steps is known when a round's M-step starts, which restarts the schedule
        scheduler = LambdaLR(optimizer, lambda step: self.m_step.rate_factor(step, self.optimizer_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        if not self.trainer.barebones:  # for callbacks that monitor; logged in loop.py
            self.log_dict(self.e_step_metrics, logger=False, batch_size=1)

    # -- validation, test, predict ------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        plan = self.e_step.plan
        for callback in self.trainer.callbacks:
            if isinstance(callback, EditFilter):
                check_filter(plan, callback, self.e_step.reward, self.m_step.goal)
        if not self._compared:
            self.record = begin_run(self.trainer, self, checkpoint=None)
        trained = self.phases.contexts("train", queries=plan.needs_queries)  # else those of the data are not looked at
        contexts = [*trained, *self.phases.contexts("validation")]
        self.phases.check(contexts, rounds=max(0, self.trainer.max_epochs or 0))
        if plan.carry_over_queries and self.datamodule.contexts_per_unit == 1:
            raise ConfigError(
                "data.contexts_per_unit must be at least 2 where e_step.carry_over_queries asks about other contexts "
                "of the unit, got 1: try 4"
            )

    def on_validation_start(self) -> None:
        if self.trainer.state.fn != "fit":
            self.phases.check(self.phases.contexts("validation"), rounds=self.rounds_done)

    def on_test_start(self) -> None:
        self.phases.check(self.phases.contexts("test"), rounds=self.rounds_done)

    def on_predict_start(self) -> None:
        asked = self.phases.contexts("predict", queries=self.answers_queries)
        self.phases.check(asked, rounds=self.rounds_done, adapts=self.answers_queries)

    def on_validation_epoch_start(self) -> None:
        self.phases.open("validation")

    def on_test_epoch_start(self) -> None:
        self.phases.open("test")

    def on_predict_epoch_start(self) -> None:
        self.phases.open("predict")

    def validation_step(self, batch: int, batch_idx: int) -> None:
        self.phases.step()

    def test_step(self, batch: int, batch_idx: int) -> None:
        self.phases.step()

    def predict_step(self, batch: int, batch_idx: int) -> UnitRows:
        """Edits of the next unit that is left, without adapting to them, or answers after adapting."""
        return self.phases.predicted_unit(batch)

    def on_validation_epoch_end(self) -> None:
        self._end_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._end_evaluation("test")

    def on_predict_epoch_end(self) -> None:
        self.phases.close()

    def _end_evaluation(self, split: str) -> None:
        """Log base, passage and edits accuracy (means over contexts) of the phase that ends."""
        self.phases.close()
        trainer = self.trainer
        tell_left_out({"val": "validation"}.get(split, split), self.evaluated, only=trainer.is_global_zero)
        if trainer.barebones:
            return
        for name, value in evaluation_means(self.evaluated).items():
            self.log(f"{split}/{name}", value, batch_size=1)
        if trainer.state.fn == "fit":
            self.log("round", float(self.rounds_done), batch_size=1)  # an x axis for trackers

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        trained = set(self.policy.trainable_state())
        state = checkpoint["state_dict"]
        if not all_finite(state.values()):  # whoever saves: a callback of the user's, too
            raise DivergedError(
                "the policy's weights are not finite: nothing was saved, the checkpoints of "
                f"{self.trainer.default_root_dir} are those from before"
            )
        checkpoint["state_dict"] = {
            name: value for name, value in state.items() if name.removeprefix("model.") in trained
        }
        checkpoint["seal"] = {
            "base": self.base_fingerprint,
            "merged": self.policy.merged,
            "optimizer_steps": self.optimizer_steps,
            "rounds_done": self.rounds_done,
            "run": self.record.to_dict(),
            "settings": settings_of_module(self),
        }
        self.course.save(checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # fewer options than Lightning's: hyper-parameters lie elsewhere
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | int | None = None,
        *,
        trust_checkpoint: bool = False,
        **kwargs: object,
    ) -> Self:
        """A module with the settings of a run and the policy of its checkpoint, ready to test, predict or generate.

        Args:
            checkpoint_path: One of a run's `checkpoints/*.ckpt`.
            map_location: The device to move it to; a trainer does that itself.
            trust_checkpoint: Let the checkpoint name classes that are not of this package, servers, keys and paths:
                they run as you. Unnecessary for what `kwargs` replace.
            kwargs: Arguments of the constructor that take the place of the run's.

        Raises:
            ConfigError: There is no such checkpoint, or its settings cannot be used as they are.
            ModelError: Base model and checkpoint do not fit.
        """
        return restored(cls, checkpoint_path, map_location=map_location, trusted=trust_checkpoint, given=kwargs)

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        saved = saved_state(checkpoint, self)
        self.optimizer_steps, self.rounds_done = saved["optimizer_steps"], saved["rounds_done"]
        self.course.load(checkpoint)
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.record = begin_run(self.trainer, self, checkpoint=saved.get("run", {}))
            self._compared = True
        # a strategy may hold the weights already when checkpoints are loaded, as DeepSpeed's do
        is_set_up = self._trainer is not None and self._trainer.strategy.restore_checkpoint_after_setup
        if not self.policy.is_before(saved["merged"]) and not is_set_up:
            log.info("the base model is loaded anew, to go back to the %d rounds of the checkpoint", self.rounds_done)
            self.tuned = None
            del self.model
            self.configure_model()
        self.policy.remerge(saved["merged"])
