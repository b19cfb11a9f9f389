"""The LightningModule of a generator: `SEALModule`'s rounds, in which edits are adapters and the network is trained.

    round: E-step (adapters of the training contexts, scored) -> M-step (the objective, on all of them) -> validation

The base model is frozen from the first to the last round. Data, task, graders, journal, checkpoints and tables are
those of any run.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from itertools import chain
from typing import ClassVar

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from seal_lightning.callbacks import ReSTEMFilter
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError
from seal_lightning.fit.checkpoint_file import Checkpoint
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.strategies import check_whole, expect_spared
from seal_lightning.generator.base import Generator, GeneratorNetwork
from seal_lightning.generator.lessons import Classroom, Examiner, InWords, ScoredContext
from seal_lightning.generator.objectives import Objective
from seal_lightning.generator.policy import GeneratorPolicy, GeneratorTuning
from seal_lightning.generator.trials import AnsweringGeneratorStep, generate_bank, generating, generating_step
from seal_lightning.grading import Grader
from seal_lightning.grading.reward import RewardOption
from seal_lightning.hooks import the_filter
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.batches import MStep, batch_plan, planned_loader
from seal_lightning.m_step.objectives import Figures
from seal_lightning.models.finite import all_finite
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.at_work import precise
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import Answerer
from seal_lightning.stamps.arguments import given_arguments
from seal_lightning.tasks import Knowledge, Task
from seal_lightning.types import Context, EditOutcome, RolloutGroup

SOURCES = 64  # contexts whose adapters are at work while others are asked about


class LessonBatch:
    """Some lessons, as Lightning takes a batch."""

    def __init__(self, lessons: Sequence[ScoredContext]) -> None:
        self.lessons = list(lessons)

    def to(self, device: torch.device, **options: object) -> LessonBatch:
        """The same: lessons are text."""
        return self


class GeneratorModule(SEALModule):
    """A frozen language model, and a network that writes adapters for it.

    Args:
        generator: The network's architecture, and the adapters that it writes.
        objective: What it is trained towards.
        source: The base model.
        task: What a context is, and how its queries are asked.
        inner_loop: How the adapters of the `passage` baseline are trained.
        grader: Scores one answer in [0, 1], as for `SEALModule`.
        reward: What an edit earns; `gain` is the change of the score, edited less unedited.
        e_step: Edits a training context; more than one differ where the objective explores.
        evaluation: Edits a validation or test context, which are written without noise.
        m_step: How the network is trained: a batch has so many contexts, an epoch is a pass over all of a round.
        max_answer_tokens: Longest closed-book answer.
        answer_batch: Queries answered together, as for `SEALModule`.
        answerer: Who answers with the adapters; null is the base model, in words.
        seed: Seed of everything random in the run.
    """

    answering: ClassVar[type[EStep]] = AnsweringGeneratorStep
    less_memory: ClassVar[str] = ", model.generator.rank, or its target_modules"
    _saved_earlier: dict[str, torch.Tensor] | None = None  # of a checkpoint within an M-step
    _classroom: Classroom | None = None

    def __init__(
        self,
        generator: Generator,
        objective: Objective,
        source: ModelSource = ModelSource(),
        task: Task | None = None,
        inner_loop: InnerLoop = InnerLoop(),
        grader: Grader | str = "calibrated",
        reward: RewardOption = "gain",
        e_step: Plan = Plan(edits=1, repeats=1),
        evaluation: Plan = Plan(edits=1, repeats=1, passage_only=True),
        m_step: MStep = MStep(learning_rate=1e-3, epochs=1, batch_size=16, schedule="constant"),
        max_answer_tokens: int = 64,
        answer_batch: int | None = None,
        answerer: Answerer | None = None,
        seed: int = 0,
    ) -> None:
        self.objective = objective
        if m_step.max_length != MStep().max_length:
            raise ConfigError(
                f"m_step.max_length is about self-edits, which a generator does not write, got {m_step.max_length}: "
                "leave it out; texts longer than the model's window are learnt in pieces"
            )
        if m_step.objective != MStep().objective:
            raise ConfigError(
                f"m_step.objective is about self-edits, which a generator does not write, got {m_step.objective!r}: "
                "leave it out; what a generator is trained towards is model.objective"
            )
        if objective.in_words and isinstance(answerer, Examiner):
            raise ConfigError(
                f"objective: {type(objective).__name__} is about answers in words as it is set, and "
                f"{type(answerer).__name__} does not answer in words: use EndToEnd without others, or Reinforce"
            )
        for name, plan in (("e_step", e_step), ("evaluation", evaluation)):
            _check_plan(name, plan)
        task = task or Knowledge()
        super().__init__(
            source=source,
            tuning=GeneratorTuning(generator=generator, task=task),
            task=task,
            inner_loop=inner_loop,
            grader=grader,
            reward=reward,
            e_step=e_step,
            evaluation=evaluation,
            m_step=m_step,
            max_answer_tokens=max_answer_tokens,
            answer_batch=answer_batch,
            answerer=answerer,
            predict="answers",
            seed=seed,
        )
        self.parts = generating_step(self.parts, noise=0.0)
        self.evaluation = generating_step(self.evaluation, noise=0.0)

    def step_for(self, plan: Plan) -> EStep:
        return generating_step(self.parts, noise=self.objective.noise, plan=plan)

    @property
    def policy(self) -> GeneratorPolicy:
        policy = super().policy
        assert isinstance(policy, GeneratorPolicy)
        return policy

    # -- a round ---------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """As of `SEALModule`; weights that are spread over the ranks are refused, too."""
        if self.trainer.state.fn == "fit":
            check_whole(self.trainer.strategy)
            if self.objective.spares:
                expect_spared(self.trainer.strategy)
        return super().configure_callbacks()

    def on_fit_start(self) -> None:
        chosen = the_filter(self.trainer.callbacks)
        defaults = inspect.signature(ReSTEMFilter).parameters  # of the one that a run has anyway
        given = given_arguments(chosen)
        if type(chosen) is not ReSTEMFilter or any(value != defaults[name].default for name, value in given.items()):
            raise ConfigError(
                f"filter: a generator learns from every edit of a round, got {type(chosen).__name__}: leave filter out"
            )
        super().on_fit_start()
        self.objective.check(self._open(), self.phases.contexts("train"))

    def choose(self, groups: Sequence[RolloutGroup]) -> list[EditOutcome]:
        """All edits that were scored."""
        return [outcome for group in groups for outcome in group.outcomes if outcome.reward is not None]

    def teaches(self, groups: Sequence[RolloutGroup]) -> list[ScoredContext]:
        """The training contexts of this round, in the order of the data, with what came of their edits."""
        outcomes: dict[str, list[EditOutcome]] = {}
        for outcome in self.kept:
            outcomes.setdefault(outcome.context_id, []).append(outcome)
        contexts = self.phases.contexts("train")
        return [ScoredContext(one, tuple(outcomes[one.id])) for one in contexts if one.id in outcomes]

    def train_dataloader(self) -> DataLoader:
        """The batches of a round's M-step, which begins now."""
        self.divergence.begin()
        lessons = self.taught
        self._classroom = self._open(earlier=self._explored() if self.objective.noise else None)
        plan = batch_plan(len(lessons), settings=self.m_step, seed=self.seed, round=self.current_epoch)
        return planned_loader(
            lessons, plan, LessonBatch, start=self.batch_start, rank=self.global_rank, shares=self.trainer.shares
        )

    def _explored(self) -> GeneratorNetwork:
        """A copy of the network with which this round's E-step explored."""
        earlier = copy.deepcopy(self.policy.network).requires_grad_(False)
        if self.batch_start and self._saved_earlier is not None:
            earlier.load_state_dict(self._saved_earlier)
        return earlier

    def batch_loss(self, batch: LessonBatch) -> tuple[torch.Tensor, Figures, int]:
        assert self._classroom is not None, "train_dataloader() opens the classroom"
        self.policy.view.model.eval()  # Lightning has put it into training mode with the rest
        with precise(self.trainer.precision_plugin):
            return self.objective.loss(self._classroom, batch.lessons).mean(), {}, len(batch.lessons)

    def check_policy(self) -> None:
        """Raise `DivergedError` where what the network now writes is not finite; a collective."""
        fine = True
        if self.kept:
            with torch.no_grad():
                classroom, lesson = self._classroom or self._open(), self.taught[0]
                adapters = classroom.network(classroom.read([lesson.context]))
                fine = all_finite(chain(*adapters.values()))
        self.divergence.stop_if("" if fine else "adapters are")

    def _open(self, *, earlier: GeneratorNetwork | None = None) -> Classroom:
        answerer, task = self.parts.answerer, self.parts.task
        examiner = answerer if isinstance(answerer, Examiner) else InWords(task)
        seed, round = self.seed, self.current_epoch
        return Classroom(self.policy.view, task, examiner, seed=seed, round=round, earlier=earlier)

    def ask_closed_book(self, policy: Policy, contexts: Sequence[Context]) -> list[Answered]:
        """What the base model answers with a generated adapter at work: on each context, that of another one."""
        known = [*self.phases.contexts("validation"), *self.phases.contexts("train")][:SOURCES]
        chosen = [_another(known, number, context.id) for number, context in enumerate(contexts)]
        own = {context.id: context for context in chosen}
        trained = generate_bank(generating(policy), self.parts.task, list(own.values()))
        jobs = [list(own).index(context.id) for context in chosen]
        return ask_closed_book(self.e_step, policy, contexts, jobs=jobs, trained=trained)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._classroom and self._classroom.earlier:
            state = self._classroom.earlier.state_dict()
            checkpoint["seal"]["earlier"] = {name: value.to("cpu", copy=True) for name, value in state.items()}

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        super().on_load_checkpoint(checkpoint)
        self._saved_earlier = checkpoint["seal"].get("earlier")


def _another(contexts: Sequence[Context], start: int, name: str) -> Context:
    """One of the contexts that has another name, if there is one, beginning at some place."""
    turned = [contexts[(start + step) % len(contexts)] for step in range(len(contexts))]
    return next((context for context in turned if context.id != name), turned[0])


def _check_plan(name: str, plan: Plan) -> None:
    """Refuse what only edits in words have. Raises `ConfigError`."""
    wrong = {
        "racing": plan.racing is not None,
        "score_by": plan.score_by != "queries",
        "queries": plan.queries != "data",
    }
    for option in (option for option, is_wrong in wrong.items() if is_wrong):
        raise ConfigError(
            f"{name}.{option} must be {getattr(Plan(), option)!r} where a generator writes the edits, got "
            f"{getattr(plan, option)!r}: leave it out"
        )
