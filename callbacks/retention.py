"""What a fit keeps and loses: the policy's own closed-book accuracy on chosen contexts, before training and after
every round.

No adapter is trained for it: unlike in validation, the policy itself answers. Of a generator's run that is the base
model with a generated adapter at work, on each context that of another one: what it does to everything else. Rows of
the matrix are the base and the rounds, columns the contexts; `seal continual` makes the same matrix for contexts that
are learnt one after another.
"""

import logging
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch import Trainer

from seal_lightning.data import Reader
from seal_lightning.data.detect import reader_for
from seal_lightning.e_step.closed_book import Answered
from seal_lightning.errors import DataError
from seal_lightning.hooks import SEALCallback
from seal_lightning.policy.at_work import policy_at_work
from seal_lightning.results.retention import FILE, ContextStream, average, read_matrices, write_matrices
from seal_lightning.types import Context

log = logging.getLogger(__name__)


class Retention(SEALCallback):
    """Writes `retention.json` in the run folder, and logs `retention/mean` and `retention/unrelated`.

    Args:
        contexts: Contexts with queries: a file, a folder or a reader; null takes the validation contexts.
        unrelated: More of them whose topics the run has nothing to do with; null asks none.
        limit: Ask about the first contexts only, at most this many of each; null asks about all.
    """

    def __init__(
        self,
        *,
        contexts: str | Reader | Path | None = None,
        unrelated: str | Reader | Path | None = None,
        limit: int | None = None,
    ) -> None:
        self.contexts = contexts
        self.unrelated = unrelated
        self.limit = limit
        self._asked: list[Context] = []
        self._beside: list[Context] = []
        self._source = ""
        self._rows: list[tuple[float, ...]] = []
        self._beside_rows: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Raises `DataError` where a context has no query."""
        validation = pl_module.datamodule.validation_contexts
        self._source, self._asked = self._read("contexts", self.contexts, otherwise=validation)
        _, self._beside = self._read("unrelated", self.unrelated, otherwise=[])
        pl_module.e_step.check_fits(pl_module.policy.view, [*self._asked, *self._beside])
        self._rows, self._beside_rows = [], []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """The base's row; after a resume, the rows of the rounds that are done come from the file."""
        path, rounds = Path(trainer.default_root_dir) / FILE, pl_module.rounds_done
        if rounds and path.is_file():
            (matrix,) = read_matrices(path)
            (stream,) = matrix.streams
            if stream.contexts == tuple(context.id for context in self._asked):
                self._rows, self._beside_rows = list(stream.rows[: rounds + 1]), list(stream.unrelated[: rounds + 1])
        if not self._rows and not rounds:
            self._ask(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """After every round, also one in which no self-edit was kept."""
        if len(self._rows) == pl_module.rounds_done:
            self._ask(trainer, pl_module)
        elif len(self._rows) < pl_module.rounds_done:
            log.warning("retention is not measured: the rows of earlier rounds are missing in %s", FILE)

    def _read(
        self, name: str, source: str | Reader | Path | None, *, otherwise: list[Context]
    ) -> tuple[str, list[Context]]:
        reader = None if source is None else reader_for(source)
        contexts = (reader.read() if reader else otherwise)[: self.limit]
        place = reader.source if reader else "the validation contexts"
        without = sum(not context.is_scorable for context in contexts)
        if without or (name == "contexts" and not contexts):
            got = f"{without} of {len(contexts)} without"
            raise DataError(f"retention.{name}: expected contexts with queries in {place}, got {got}: name others")
        return place, contexts

    def _ask(self, trainer: Any, module: Any) -> None:
        module.policy.open_replica()  # a collective where weights are spread over the ranks
        found: list[Answered] = []
        try:
            if trainer.is_global_zero:
                with policy_at_work(trainer, module) as policy:
                    found = module.ask_closed_book(policy, [*self._asked, *self._beside])
        finally:
            module.policy.close_replica()
        answered: list[Answered] = trainer.processes.ranks.gather(found)[0]
        scores = [one.accuracy for one in answered]
        self._rows.append(tuple(scores[: len(self._asked)]))
        means = {"retention/mean": fmean(self._rows[-1])}
        if self._beside:
            self._beside_rows.append(fmean(scores[len(self._asked) :]))
            means["retention/unrelated"] = self._beside_rows[-1]
        for logger in trainer.loggers:
            logger.log_metrics({**means, "round": float(module.rounds_done)}, step=trainer.global_step)
        if trainer.is_global_zero:
            names = tuple(context.id for context in self._asked)
            stream = ContextStream("fit", names, tuple(self._rows), tuple(self._beside_rows))
            matrix = average("policy by round", [stream], dataset=self._source, base_model=module.source.name)
            write_matrices(Path(trainer.default_root_dir) / FILE, [matrix])
