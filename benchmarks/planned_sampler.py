"""A sampler that fails, dies or waits for a worker when it is told to."""

from typing import Any

from worker_faults import Plan

from seal_lightning.sampling import LocalSampler, Sample


class PlannedSampler(LocalSampler):
    """Samples a unit after what a plan has in store for it (`worker_faults.Plan`).

    Args:
        plan: The plan's arguments.
        max_new_tokens: Longest self-edit in tokens.
    """

    def __init__(self, plan: dict[str, Any], max_new_tokens: int) -> None:
        super().__init__(max_new_tokens=max_new_tokens)
        self._plan = Plan(**plan)

    def sample(self, *args: Any, **options: Any) -> list[Sample]:
        self._plan.begin()
        return super().sample(*args, **options)
