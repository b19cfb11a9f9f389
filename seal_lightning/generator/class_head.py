"""Queries answered by a class: a linear head on the hidden state of a text's last token, as classifiers of GPT-2 have.

The head is fixed before anything is trained: ridge regression, in closed form, of the labels on the frozen model's
states of labelled texts. What an adapter changes is the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from seal_lightning.data.base import Reader
from seal_lightning.data.detect import reader_for
from seal_lightning.errors import ConfigError, DataError, check_count
from seal_lightning.generator.lessons import Exercise
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.inner_loop.isolation import BatchLoss
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.packing import TrainingBatch
from seal_lightning.models.finite import rows_finite
from seal_lightning.models.kernels import planless_attention
from seal_lightning.models.memory import in_parts
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.answering import ANSWERS_ON_CPU, Answerer, Answers, Asked
from seal_lightning.sampling.generation import OnDone, quiet
from seal_lightning.sampling.sizes import rows_together
from seal_lightning.stamps.values import digest
from seal_lightning.tasks.classification import labelled_texts, text_prompt
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Context, Query


class ClassHead(Answerer):
    """Answers each query with the label of the largest logit; of equal ones with the first label.

    It goes with the task `Classification` and with a model that stays as it is: that of a generator.

    Args:
        examples: The contexts whose labelled texts the head is made from: a path or a reader; those of training.
        ridge: Weight of the squared norm of the head beside the squared errors, summed over the texts.
        batch_size: Texts read together; null takes 64 on a CPU, and on a GPU as many as its free memory takes.

    Attributes:
        labels: All labels of the examples, in alphabetical order; a class is the place of its label.
        made_from: A digest of the examples.
    """

    def __init__(self, examples: str | Reader, *, ridge: float = 1.0, batch_size: int | None = None) -> None:
        if not ridge > 0:
            raise ConfigError(f"model.answerer.ridge must be above 0, got {ridge}")
        self.ridge = ridge
        self.batch_size = None if batch_size is None else check_count("model.answerer.batch_size", batch_size)
        reader = reader_for(examples) if isinstance(examples, str) else examples
        self._texts = labelled_texts(reader.read())
        self.labels = sorted({label for _, label in self._texts})
        if len(self.labels) < 2:
            raise DataError(
                f"{reader.source}: the examples of a head need two labels or more, got "
                f"{', '.join(self.labels) or 'none'}"
            )
        self.made_from = digest([list(example) for example in self._texts])
        self._head: torch.Tensor | None = None  # (d + 1, labels), the last row the bias; the same for every process

    def answer(
        self,
        policy: Policy,
        asked: Sequence[Asked],
        trained: TrainedBank | None,
        *,
        max_new_tokens: int,
        on_done: OnDone = quiet,
    ) -> list[Answers]:
        head = self.head(policy)
        rows = [policy.encode(policy.format(prompt)) for asking in asked for prompt in asking.prompts]
        jobs = [asking.job for asking in asked for _ in asking.prompts]
        states = self._states(policy, rows, trained, jobs, on_done)
        sound = rows_finite(states).tolist()
        answered = zip(self._named(logits_of(states, head)), sound, strict=True)
        answers: list[Answers] = []
        for asking in asked:
            some = [next(answered) for _ in asking.prompts]
            texts = tuple(label for label, _ in some)
            answers.append(Answers(texts, 0, (False,) * len(some), finite=all(fine for _, fine in some)))
        return answers

    def head(self, policy: Policy) -> torch.Tensor:
        """The head (d + 1, labels) on the policy's device, made when it is first asked for.

        Raises:
            ConfigError: The policy is one that M-steps change.
        """
        if not isinstance(policy, GeneratingPolicy):
            raise ConfigError(
                "model.answerer: ClassHead reads the states of a model that stays as it is, got one that M-steps "
                "change: use it with seal_lightning.generator.GeneratorModule"
            )
        if self._head is None:
            rows = [policy.encode(policy.format(text_prompt(text))) for text, _ in self._texts]
            states = self._states(policy, rows, None, [None] * len(rows), quiet)
            classes = torch.tensor([self.labels.index(label) for _, label in self._texts])
            self._head = ridge_head(states, classes, ridge=self.ridge)
        return self._head.to(policy.device)

    def _named(self, logits: torch.Tensor) -> list[str]:
        """The label of each row of logits (b, labels)."""
        return [self.labels[max(range(len(row)), key=row.__getitem__)] for row in logits.tolist()]

    def _states(
        self,
        policy: Policy,
        rows: Sequence[Sequence[int]],
        trained: TrainedBank | None,
        jobs: Sequence[int | None],
        on_done: OnDone,
    ) -> torch.Tensor:
        """The last token's state of each row, (b, d), float32 on the CPU, with the adapter of its job."""
        size = rows_together(policy, rows, max_new_tokens=0, given=self.batch_size, on_cpu=ANSWERS_ON_CPU)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        found: dict[int, torch.Tensor] = {}
        for numbers, states in in_parts(
            [order[start : start + size] for start in range(0, len(order), size)],
            lambda some: last_states(policy, [rows[n] for n in some], trained, [jobs[n] for n in some]),
            device=policy.device,
            doing="reading texts to classify",
            advice="classify shorter texts, or use a smaller model",
        ):
            found |= zip(numbers, states, strict=True)
            on_done(len(numbers))
        return torch.stack([found[number] for number in range(len(rows))])

    # -- as an `Examiner` ------------------------------------------------------------------------------------------

    def exercise(self, policy: GeneratingPolicy, query: Query, context: Context) -> Exercise:
        """A text whose last state is to give its class; the token behind it is never read.

        Raises:
            DataError: The head does not know the label.
        """
        if (label := query.golds[0]) not in self.labels:
            raise DataError(
                f"context {shortened(context.id, 60)!r}: label must be one of {', '.join(self.labels)}, as in the "
                f"examples of model.answerer, got {shortened(label, 60)!r}: add examples of it, or mend the label"
            )
        self.head(policy)
        tokens = policy.encode(policy.format(text_prompt(query.question)))
        return Exercise([*tokens, tokens[-1]], len(tokens), [self.labels.index(label)])

    def token_loss(self, model: PreTrainedModel, adapted: set[str]) -> BatchLoss:
        return partial(self._loss, model)

    def _loss(self, model: PreTrainedModel, batch: TrainingBatch) -> torch.Tensor:
        """Weighted losses (S,) of the classes of the batch's texts."""
        assert self._head is not None, "exercises have made it"
        states = model.base_model(**batch.inputs, use_cache=False).last_hidden_state.flatten(0, 1)[batch.positions]
        logits = logits_of(states.float(), self._head.to(states.device))
        return functional.cross_entropy(logits, batch.targets, reduction="none") * batch.weights


@torch.no_grad()
def last_states(
    policy: Policy, rows: Sequence[Sequence[int]], trained: TrainedBank | None, jobs: Sequence[int | None]
) -> torch.Tensor:
    """The state of each row's last token, (b, d), float32 on the CPU.

    Args:
        policy: Frozen and in evaluation mode.
        rows: Token ids.
        trained: Holds the adapters of the jobs, if there are any.
        jobs: The adapter of each row.
    """
    longest = max(map(len, rows))
    # padding stands behind the tokens, where a causal model does not look
    ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=policy.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=policy.device)
    with planless_attention(policy.device), trained.answering(jobs) if trained else nullcontext():
        states = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return states[torch.arange(len(rows), device=policy.device), last].float().cpu()


def ridge_head(states: torch.Tensor, classes: torch.Tensor, *, ridge: float) -> torch.Tensor:
    """The head (d + 1, C) that comes closest to 1 for a text's class and -1 for the others, computed in float64.

    Args:
        states: (n, d).
        classes: (n,), numbers below C.
        ridge: Weight of its squared norm; the bias costs nothing.
    """
    inputs = functional.pad(states.double(), (0, 1), value=1.0)
    wanted = functional.one_hot(classes).double() * 2 - 1
    penalty = torch.full((inputs.shape[1],), ridge, dtype=torch.float64)
    penalty[-1] = 0.0
    return torch.linalg.solve(inputs.T @ inputs + penalty.diag(), inputs.T @ wanted).float()


def logits_of(states: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Logits (b, C) of states (b, d)."""
    return states @ head[:-1].to(states.device) + head[-1].to(states.device)
