"""The LightningModule: it owns the policy, builds the E-step from its parts, and is what the M-step trains.

One Lightning epoch is one round. The E-step runs in the fit loop (`loop.py`); `training_step` is plain supervised
fine-tuning on the kept edits; validation and test adapt to held-out contexts and report the paper's three numbers: base
(no adapter), passage (adapter trained on the passage alone), edits (adapter trained on one self-edit).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch import Callback, LightningModule
from torch.optim.lr_scheduler import LambdaLR

from seal_lightning.data import SEALDataModule
from seal_lightning.data.units import Unit, units
from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.predictions import AnsweringStep, UnitRows, WritingStep, predict
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.errors import ConfigError, DivergedError, ModelError, Stopped
from seal_lightning.fit.limits import Limit, limit_of
from seal_lightning.fit.loop import SEALFitLoop
from seal_lightning.fit.stamp import begin_run, tokenizer_digest
from seal_lightning.fit.units import UnitRunner
from seal_lightning.grading import Grader, Reward, Rubric, resolve
from seal_lightning.grading.reward import RewardOption, writable
from seal_lightning.hooks import EditFilter, notify
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.batches import MStep, Shares, encode_example, make_loader, tell_truncated
from seal_lightning.m_step.training import batch_loss, make_optimizer, seed_batch
from seal_lightning.models.finite import all_finite, check_finite, rows_finite
from seal_lightning.models.layers import find_targets
from seal_lightning.models.loading import fingerprint, load_model
from seal_lightning.models.partitioned import is_partitioned
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.at_work import policy_at_work
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.records.journal import read_rollouts
from seal_lightning.results.accuracy import evaluation_means
from seal_lightning.results.left_out import tell_left_out
from seal_lightning.sampling import Answerer, LocalAnswerer, LocalSampler, Sampler, ServerAnswerer, ServerSampler
from seal_lightning.stamps.arguments import Remembers, given_arguments
from seal_lightning.stamps.run import Record
from seal_lightning.stamps.settings import NotPlain, class_path, plain
from seal_lightning.tasks import Knowledge, Task
from seal_lightning.text.masking import safe_to_save
from seal_lightning.types import Context, EditOutcome, Rollout

log = logging.getLogger(__name__)

# The phases of Lightning's stages.
PHASES_OF = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("predict",)}
# What may not be finite of a policy, for ranks to agree.
DIVERGENCES = ("", "loss is", "gradient is", "weights are", "logits are")


class SEALModule(LightningModule, Remembers):
    """A self-adapting language model.

    Args:
        source: The base model.
        tuning: How the M-step changes the policy.
        task: What a context is, how edits are prompted and parsed.
        sampler: Where self-edits come from.
        evaluation_sampler: Where those of validation and test come from; null is `sampler`, or the policy itself where
            that takes them from outside.
        inner_loop: How the temporary adapters are trained.
        grader: Scores one answer in [0, 1]: `calibrated`, `recall`, `contains`, `exact_match`, `f1`, `judge` (the
            policy itself), or a class of your own.
        reward: One of the terms `score`, `gain`, `improved`, `precision`, `length`, `format`, `carry_over`, or a
            function or `RewardTerm` of your own (`my_module.my_term`), or weights of several, for example
            `{score: 1.0, length: -0.1}`, or a list of `{term: ..., weight: ...}`.
        rubric: How edits are marked where `e_step.score_by` is `rubric`.
        query_writer: Writes queries where `e_step.queries` is `own`.
        e_step: Edits and repeats a training context, and how they are scored.
        evaluation: Edits and repeats a validation or test context.
        m_step: How the policy is fine-tuned on the kept edits.
        max_answer_tokens: Longest closed-book answer.
        answer_batch: Queries answered together.
        answerer: Who answers with the adapters; null is the policy itself.
        predict: What `seal predict` does: `edits` writes self-edits; `answers` also adapts to each of them, as
            `evaluation` says, and answers the queries of the data, which need no known answers.
        seed: Of everything random in the run; `seed_everything` is not needed.
    """

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
        answer_batch: int = 64,
        answerer: Answerer | None = None,
        predict: Literal["edits", "answers"] = "edits",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if predict not in ("edits", "answers"):
            raise ConfigError(f"predict must be edits or answers, got {predict!r}: use one of them")
        self.answers_queries = predict == "answers"
        self.source = source
        self.tuning = tuning
        weighed = Reward(reward)
        evaluation = _measured_alike(evaluation, e_step, weighed)
        self.m_step = m_step
        self.seed = seed
        for name, value in {"max_answer_tokens": max_answer_tokens, "answer_batch": answer_batch}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self._parts = EStep(
            task=task or Knowledge(),
            sampler=sampler or LocalSampler(),
            inner_loop=inner_loop,
            grader=resolve(grader),
            reward=weighed,
            seed=seed,
            max_answer_tokens=max_answer_tokens,
            answerer=answerer or LocalAnswerer(answer_batch),
        )
        self.rubric = rubric or Rubric()
        self.query_writer = query_writer or QueryWriter()
        self.e_step = self.step_for(e_step)
        if evaluation_sampler is None:
            evaluation_sampler = LocalSampler() if self.e_step.sampler.from_outside else self.e_step.sampler
        self.evaluation = replace(self._parts, plan=evaluation, sampler=evaluation_sampler)
        parts = (self.e_step.sampler, self.e_step.answerer, evaluation_sampler)
        if tuning.method == "full" and any(isinstance(part, ServerSampler | ServerAnswerer) for part in parts):
            raise ConfigError("tuning.method must be lora where a server holds the base model, got full")
        self.tuned: TunedPolicy | None = None
        self.kept: list[EditOutcome] = []
        self.batch_start = 0
        self.optimizer_steps = 1
        self.rounds_done = 0
        self.e_step_metrics: dict[str, float] = {}
        self.evaluated: list[Rollout] = []
        self.limits: dict[str, Limit] = {}  # of the command's phases
        self.runner: Any = None  # UnitRunner of the evaluation or prediction that goes on
        self.m_step_truncated = 0
        self._losses: list[torch.Tensor] = []  # of the optimizer step at hand, this rank's
        self._gradient_norm: torch.Tensor | None = None  # of it, where it is known
        self.strict_loading = False
        self.base_fingerprint = ""
        self.base_stamp: dict[str, Any] = {}
        self.record = Record({})  # what the fit depends on, once it has begun
        self.record_saved = True  # or nothing is to be saved, as by other commands
        self._compared = False  # with a checkpoint's

    def step_for(self, plan: Plan) -> EStep:
        """The E-step of a plan, with this module's parts."""
        return step_for(plan, self._parts, rubric=self.rubric, query_writer=self.query_writer)

    # -- the policy ------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """None of its own; the first of Lightning's hooks, where another trainer is told before any work.

        Raises:
            ConfigError: It is not a `SEALTrainer`.
        """
        self._check_trainer()
        return []

    def _check_trainer(self) -> None:
        if not isinstance(getattr(self.trainer, "fit_loop", None), SEALFitLoop):
            raise ConfigError(
                f"trainer: expected a seal_lightning.SEALTrainer, got {_path(type(self.trainer))}: SEAL's rounds need "
                "its loop, and it takes the same options"
            )

    def setup(self, stage: str) -> None:
        self._check_trainer()
        self._compared = False
        trainer: Any = self.trainer
        trainer.share_refusal()
        # before the model is loaded: a share that is less than a unit is refused
        self.limits = {phase: limit_of(trainer, phase, len(self._units(phase))) for phase in PHASES_OF.get(stage, ())}
        self.configure_model()  # DeepSpeed's stage 3 would build it in pieces later, which not every model stands

    def configure_model(self) -> None:
        """Load the policy, once."""
        if self.tuned is None:
            model, tokenizer, chat = load_model(self.source)
            self.base_fingerprint = fingerprint(model)
            tokens = tokenizer_digest(tokenizer)
            self.tuned = TunedPolicy(
                model, tokenizer, chat, self.tuning, seed=self.seed, reload=lambda: load_model(self.source)[0]
            )
            chatting = self.tuned.view.chat_stamp
            self.base_stamp = {"base": self.base_fingerprint, "tokenizer": tokens, "chat": chatting}
            self.model = self.tuned.module.train()
            if self._trainer is not None:  # before a checkpoint's rounds are merged, as it was when they ended
                self._trainer.precision_plugin.convert_module(self.tuned.module)

    @property
    def policy(self) -> TunedPolicy:
        assert self.tuned is not None, "configure_model() makes the policy"
        return self.tuned

    @property
    def datamodule(self) -> SEALDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it, its type does not say so

    # -- M-step ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        loader = make_loader(
            self.policy.view,
            self.kept,
            settings=self.m_step,
            seed=self.seed,
            round=self.current_epoch,
            start=self.batch_start,
            rank=self.global_rank,
            shares=self.shares,
        )
        self.m_step_truncated = tell_truncated(loader.dataset, self.m_step, only=self.global_rank == 0)  # type: ignore[arg-type]
        return loader

    @property
    def shares(self) -> Shares:
        """How the batches of an optimizer step are shared out among the ranks."""
        trainer: Any = self.trainer
        return trainer.shares

    def m_step_plan(self) -> int:
        """Batches of all ranks in this round's M-step."""
        return self.m_step.batches(len(self.kept))

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        place = batch_idx * self.trainer.world_size + self.global_rank  # in the round, over all ranks
        number = self.shares.number(place, self.m_step_plan())
        seed_batch(self.seed, self.current_epoch, number, device=self.device)
        loss = batch_loss(self.model, batch)
        self._losses.append(loss.detach())
        if not self.trainer.barebones:  # which would warn, though it is not the user who logs
            self.log("m_step/loss", loss, prog_bar=True, on_step=True, batch_size=len(batch["input_ids"]))
        return loss * self.shares.weight(number)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Remember the gradient's norm, unless a loss scaler looks at gradients itself and skips what overflows."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self._gradient_norm = torch.nn.utils.get_total_norm(gradients) if gradients and not scaled else None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step; a policy that is not finite afterwards goes no further: nothing of it is saved.

        Raises:
            DivergedError: Of any rank's losses, gradient or weights; all ranks raise it.
        """
        super().optimizer_step(*args, **kwargs)
        losses, self._losses = self._losses, []
        norms = [] if self._gradient_norm is None else [self._gradient_norm]
        weights = [getattr(value, "ds_tensor", value) for value in self.policy.trainable_state().values()]
        parts = {"loss is": losses, "gradient is": norms, "weights are": weights}
        self._stop_if(next((name for name, tensors in parts.items() if not all_finite(tensors)), ""))

    def _stop_if(self, what: str) -> None:
        """Raises `DivergedError` on all ranks where any of them names what is not finite."""
        trainer: Any = self.trainer
        number = trainer.largest(DIVERGENCES.index(what))
        if not number:
            return
        step = trainer.fit_loop.epoch_loop.batch_idx // trainer.accumulate_grad_batches + 1
        raise DivergedError(
            f"round {self.current_epoch + 1}, M-step: the policy's {DIVERGENCES[number]} not finite "
            f"in optimizer step {step} of {self.optimizer_steps}, model.m_step.learning_rate="
            f"{self.m_step.learning_rate:g}: nothing of it was saved, checkpoints and policy of {self._run_folder} are "
            "those from before; start again in another folder with a lower learning rate, or a precision of more range"
        )

    @property
    def _run_folder(self) -> str:
        return str(self.trainer.default_root_dir)

    @torch.no_grad()
    def check_policy(self) -> None:
        """Whether the policy can still be asked, now that its M-step has changed it; a collective.

        Finite weights may be so large that nothing finite comes of them. Weights that are spread over the ranks are
        not looked at: to ask such a policy, all of it would have to be loaded again.

        Raises:
            DivergedError: Its logits for a kept edit are not finite.
        """
        if not self.kept or any(map(is_partitioned, self.policy.module.parameters())):
            return
        shortest = min(self.kept, key=lambda outcome: len(outcome.prompt) + len(outcome.text))
        with policy_at_work(self.trainer, self) as policy:
            limit = min(self.m_step.max_length, policy.window)
            example = encode_example(policy, shortest.prompt, shortest.text, max_length=limit)
            ids = torch.tensor([example.input_ids], device=policy.device)
            finite = rows_finite(policy.model(input_ids=ids, use_cache=False).logits[0])
        self._stop_if("" if bool(finite.all()) else "logits are")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After an optimizer step, stop where a signal asked any rank to; the round's end stops a moment later."""
        steps_done, rest = divmod(batch_idx + 1, self.trainer.accumulate_grad_batches)
        if rest or steps_done == self.optimizer_steps:
            return
        trainer: Any = self.trainer
        if number := trainer.stop_requested():
            notify(trainer, self, "on_stop")
            raise Stopped(number)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.parameters(), self.m_step)
        # the number of steps is known when a round's M-step starts, which restarts the schedule
        scheduler = LambdaLR(optimizer, lambda step: self.m_step.rate_factor(step, self.optimizer_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        if not self.trainer.barebones:  # for callbacks that monitor; logged in loop.py
            self.log_dict(self.e_step_metrics, logger=False, batch_size=1)

    # -- validation, test, predict ------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EditFilter):
                check_filter(self.e_step.plan, callback, self.e_step.reward)
        if not self._compared:
            self.record = begin_run(self.trainer, self, checkpoint=None)
        trained = self._contexts("train")
        if not self.e_step.plan.needs_queries:  # those of the data are not looked at
            trained = [replace(context, queries=()) for context in trained]
        self._check_servers(rounds=max(0, self.trainer.max_epochs or 0))
        self._check_fits([*trained, *self._contexts("validation")])
        if self.e_step.plan.carry_over_queries and self.datamodule.contexts_per_unit == 1:
            raise ConfigError(
                "data.contexts_per_unit must be at least 2 where e_step.carry_over_queries asks about other contexts "
                "of the unit, got 1: try 4"
            )

    def on_validation_start(self) -> None:
        if self.trainer.state.fn != "fit":
            self._check_servers(rounds=self.rounds_done)
            self._check_fits(self._contexts("validation"))

    def on_test_start(self) -> None:
        self._check_servers(rounds=self.rounds_done)
        self._check_fits(self._contexts("test"))

    def on_predict_start(self) -> None:
        self._check_servers(rounds=self.rounds_done)
        contexts = self._contexts("predict")
        asked = contexts if self.answers_queries else [replace(context, queries=()) for context in contexts]
        self._check_fits(asked, adapts=self.answers_queries)

    def _check_servers(self, *, rounds: int) -> None:
        """A server that is to hold the policy must load what becomes of it after `rounds`, with an inner adapter."""
        rank = self.tuning.rank * (min(rounds, 1) if self.tuning.round_start == "continue" else rounds)
        loop, learned, policy = self.e_step.inner_loop, self.policy.layers, self.policy.view
        signals = getattr(self.trainer, "stop_signals", None)  # of ours; plain Lightning has none
        on_wait = signals.check if signals else lambda: None
        for sampler in {self.e_step.sampler, self.evaluation.sampler}:
            if isinstance(sampler, ServerSampler):
                sampler.server.check(policy, rank=rank, layers=learned, on_wait=on_wait)
        if isinstance(self.e_step.answerer, ServerAnswerer):
            adapted = [target.name for target in find_targets(policy.model, loop.target_modules)]
            self.e_step.answerer.server.check(
                policy, rank=rank + loop.rank, layers=[*learned, *adapted], on_wait=on_wait
            )

    def _check_fits(self, contexts: Sequence[Context], *, adapts: bool = True) -> None:
        if not any(map(is_partitioned, self.policy.module.parameters())):  # else probed with the replica's first unit
            with adapters_can_train(), self.policy.frozen() as policy:
                self.e_step.check_model(policy, adapts=adapts)
        self.e_step.check_fits(self.policy.view, contexts)

    def _units(self, phase: str) -> list[Unit]:
        """All units of a phase, whatever its limit."""
        data = self.datamodule
        return units(getattr(data, f"{phase}_contexts"), data.contexts_per_unit)

    def _contexts(self, phase: str) -> list[Context]:
        """Those that the trainer's limit on a phase leaves."""
        every = self._units(phase)
        return [context for unit in every[: limit_of(self.trainer, phase, len(every)).units] for context in unit]

    def on_validation_epoch_start(self) -> None:
        self._open_units("validation")

    def on_test_epoch_start(self) -> None:
        self._open_units("test")

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Every rank is asked as many times as there are units, and takes the next one that is left."""
        self._run_unit()

    def test_step(self, batch: int, batch_idx: int) -> None:
        self._run_unit()

    def on_predict_epoch_start(self) -> None:
        """As a test, with a journal of its own; nothing is scored, so nothing is compared either."""
        self.evaluated = []
        kind, step = (AnsweringStep, self.evaluation) if self.answers_queries else (WritingStep, self.e_step)
        plan = Plan(edits=step.plan.edits, repeats=step.plan.repeats if self.answers_queries else 1)
        self.runner = UnitRunner(
            self.trainer,
            self,
            phase="predict",
            e_step=kind(**{**vars(self._parts), "plan": plan, "sampler": step.sampler}),
            units=self._units("predict"),
            round=self.rounds_done,
            policy_digest=self.policy.digest(),
            by_stamp=True,
            folder="predictions",
        )

    def predict_step(self, batch: int, batch_idx: int) -> UnitRows:
        """Self-edits of the next unit that is left, without adapting, or answers after adapting.

        Returns:
            The unit's rollouts, for callbacks that write predictions; none where other ranks have taken all units.
        """
        if batch in self.runner.finished:
            return UnitRows(self.runner.journal.units.get(batch, ()) if self.global_rank == 0 else ())
        with adapters_can_train():
            return UnitRows(self.runner.step() or ())

    def on_predict_epoch_end(self) -> None:
        """All ranks' rollouts are in `evaluated`, in the order of the data."""
        with adapters_can_train():
            self.evaluated = self.runner.finish()

    def predictions(self) -> list[Any]:
        """What `trainer.predict` returns: self-edits (`Rollout`) or answers (`Prediction`), a list for each unit."""
        chosen = self._units("predict")[: self.runner.limit.units]
        of_context: dict[str, list[Any]] = {context.id: [] for unit in chosen for context in unit}
        if self.answers_queries:
            for prediction in predict(self.e_step.task, self._contexts("predict"), self.evaluated):
                of_context[prediction.context.id].append(prediction)
        else:
            for rollout in self.evaluated:
                of_context[rollout.context_id].append(rollout)
        return [[row for context in unit for row in of_context[context.id]] for unit in chosen]

    def predicted(self) -> list[Rollout]:
        """Those of the units that `seal predict` has finished so far, by all ranks whose journals can be seen here."""
        return read_rollouts(self.runner.journal.folder, self.runner.journal.name) if self.runner else []

    def on_validation_epoch_end(self) -> None:
        self._close_units("val")

    def on_test_epoch_end(self) -> None:
        self._close_units("test")

    def _open_units(self, phase: str) -> None:
        self.evaluated = []
        trainer: Any = self.trainer
        later, plan = trainer.state.fn == "fit" and self.rounds_done > 0, self.evaluation.plan
        first = not self.rounds_done and trainer.fit_loop.validate_first  # which is about to come as a whole
        self.runner = UnitRunner(
            self.trainer,
            self,
            phase=phase,
            e_step=replace(self.evaluation, plan=replace(plan, written=False)) if later else self.evaluation,
            units=self._units(phase),
            round=self.rounds_done,
            policy_digest=self.policy.digest(),
            folder="sanity" if self.trainer.sanity_checking and not first else "journal",
            by_stamp=not self.trainer.training and self.trainer.state.fn != "fit",
        )

    def _run_unit(self) -> None:
        with adapters_can_train():
            self.runner.step()

    def _close_units(self, split: str) -> None:
        """Log base, passage and edits accuracy (means over contexts) of the phase that ends."""
        with adapters_can_train():
            self.evaluated = self.runner.finish()
        trainer: Any = self.trainer
        tell_left_out({"val": "validation"}.get(split, split), self.evaluated, only=trainer.is_global_zero)
        for name, value in evaluation_means(self.evaluated).items() if not trainer.barebones else ():
            self.log(f"{split}/{name}", value, batch_size=1)
        if self.trainer.state.fn == "fit" and not trainer.barebones:
            self.log("round", float(self.rounds_done), batch_size=1)  # an x axis for trackers

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = set(self.policy.trainable_state())
        state = checkpoint["state_dict"]
        if not all_finite(state.values()):  # whoever saves: a callback of the user's, too
            raise DivergedError(
                f"the policy's weights are not finite: nothing was saved, the checkpoints of {self._run_folder} are "
                "those from before"
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

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # fewer options than Lightning's: hyper-parameters lie elsewhere
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        *,
        trust_checkpoint: bool = False,
        **kwargs: Any,
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
        from seal_lightning.fit.restoring import restored  # which knows the options of this class

        return restored(cls, checkpoint_path, map_location=map_location, trusted=trust_checkpoint, given=kwargs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("seal")
        if saved is None:
            raise ModelError("the checkpoint was not written by seal fit; give one of a run's checkpoints/*.ckpt")
        if saved["base"] != self.base_fingerprint:
            raise ModelError(
                f"the checkpoint belongs to another base model than model.source.name={self.source.name}; use the "
                "config saved beside the run"
            )
        for number, weights in enumerate([*saved["merged"], checkpoint["state_dict"]], start=1):
            check_finite(
                weights,
                f"the checkpoint, round {number}",
                advice="give an earlier one, as checkpoints/best.ckpt, or start again in another folder with a lower "
                "model.m_step.learning_rate",
            )
        self.optimizer_steps, self.rounds_done = saved["optimizer_steps"], saved["rounds_done"]
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.record = begin_run(self.trainer, self, checkpoint=saved.get("run", {}))
            self._compared = True
        if not self.policy.is_before(saved["merged"]) and not self._is_set_up:
            log.info("the base model is loaded anew, to go back to the %d rounds of the checkpoint", self.rounds_done)
            self.tuned = None
            del self.model
            self.configure_model()
        self.policy.remerge(saved["merged"])

    @property
    def _is_set_up(self) -> bool:
        """Whether a strategy holds the weights already when checkpoints are loaded, as DeepSpeed's do."""
        return self._trainer is not None and self._trainer.strategy.restore_checkpoint_after_setup


def written_arguments(module: SEALModule) -> dict[str, Any]:
    """The arguments that a module was made from, in the form that a configuration has for them."""
    arguments = given_arguments(module)
    return {**arguments, "reward": writable(arguments["reward"])} if "reward" in arguments else arguments


def settings_of_module(module: SEALModule) -> dict[str, Any]:
    """What a module was made from, as plain values without secrets: its class, arguments, and those left out."""
    arguments: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, value in written_arguments(module).items():
        try:
            arguments[name] = plain(value)
        except NotPlain as error:
            left_out[name] = str(error)
    try:
        kind = class_path(type(module))
    except NotPlain:
        kind = type(module).__qualname__
    return safe_to_save({"class": kind, "model": arguments, "left_out": left_out})


def _path(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


@contextmanager
def adapters_can_train() -> Iterator[None]:
    """Lightning evaluates without gradients, or in inference mode; here adapters are trained meanwhile."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def check_filter(plan: Plan, chosen: EditFilter, reward: Reward) -> None:
    """Whether a filter can keep anything, and finds it among the edits that the plan's race leaves.

    Raises:
        ConfigError: No reward can pass it, it draws among all edits, or keeps more of them than remain.
    """
    if isinstance(above := getattr(chosen, "above", None), int | float):
        reward.check_above(above)
    if plan.racing is None:
        return
    if not chosen.by_reward:
        raise ConfigError(
            f"{type(chosen).__name__} draws among all edits, and a race leaves the best ones: set e_step.racing to null"
        )
    k = getattr(chosen, "k", None)
    if isinstance(k, int) and plan.racing.keep < min(k, plan.edits):
        raise ConfigError(
            f"e_step.racing.keep must be at least filter.k, which is {k}, got {plan.racing.keep}: raise it"
        )


def _measured_alike(evaluation: Plan, e_step: Plan, reward: Reward) -> Plan:
    """The plan of the evaluation, which measures what the reward is made of, and on human queries only.

    Raises:
        ConfigError: The plans do not fit the reward, or the evaluation takes queries of its own.
    """
    if not evaluation.needs_queries:
        raise ConfigError(
            "evaluation.score_by must be queries and evaluation.queries must be data, got "
            f"{evaluation.score_by} and {evaluation.queries}: what a model asks itself is no measure; set e_step's"
        )
    if evaluation.racing:
        raise ConfigError(
            "evaluation.racing must be null, got a race: what is dropped would not be measured; set e_step's"
        )
    if e_step.racing:
        if others := reward.names(lambda term: not term.follows_score):
            raise ConfigError(
                "reward must be made of terms that follow the score, such as score and gain, where e_step.racing is "
                f"set, got {others[0]}: remove it, or set e_step.racing to null"
            )
        if sum(reward.weights.values()) <= 0:
            raise ConfigError(
                "reward must have weights that add up to more than 0 where e_step.racing is set, got "
                f"{sum(reward.weights.values()):g}: raise them"
            )
    if e_step.score_by == "rubric" and (reading := reward.names(lambda term: term.needs_answers)):
        raise ConfigError(
            "reward must be made of terms that need no answers, such as score, length and format, where "
            f"e_step.score_by is rubric, got {reading[0]}: remove it, or set e_step.score_by to queries"
        )
    others = reward.names(lambda term: term.needs_carry_over)
    if not others:
        return evaluation
    if not e_step.carry_over_queries:
        raise ConfigError(
            f"e_step.carry_over_queries must be at least 1 where the reward has a {others[0]} term, got 0: try 4"
        )
    return replace(evaluation, carry_over_queries=evaluation.carry_over_queries or e_step.carry_over_queries)
