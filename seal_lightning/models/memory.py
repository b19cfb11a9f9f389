"""Running out of memory, on a GPU and on a CPU alike: how it is recognised, what is free, and work in halves.

On a GPU torch raises one error for it. On a CPU the allocator, the operating system, NumPy, oneDNN and Python itself
each have their own.
"""

from __future__ import annotations

import errno
import gc
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from seal_lightning.errors import NoMemoryError

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Value = TypeVar("_Value")

# What may turn out to be a lack of memory; `is_out_of_memory` tells.
MAYBE = (RuntimeError, MemoryError, OSError)
_TEXTS = re.compile(
    r"DefaultCPUAllocator|not enough memory|can't allocate memory|cannot allocate memory|unable to allocate|bad_alloc"
    r"|out of memory|ALLOC_FAILED|failed to allocate|could not create a (?:memory|primitive\b(?! desc))"
    r"|could not execute a primitive",
    re.IGNORECASE,
)
_LIMITS = (
    ("memory.max", "memory.current"),  # version 2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # version 1
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _TEXTS.search(str(error)) is not None


def free_memory(device: torch.device) -> int:
    """Free bytes: of the GPU, or on a CPU what the machine, its container and the limits of the process leave.

    On a GPU what torch's allocator has and does not use is free too, or the first unit of work would find more than the
    second.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min([psutil.virtual_memory().available, *_left_by_container(Path("/sys/fs/cgroup")), *_left_to_process()])


def make_room(device: torch.device) -> None:
    """Give back what a broken-off pass has left behind; called outside of the handler of its error."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def attempt(work: Callable[[], _Value]) -> tuple[_Value | None, str]:
    """What the work returns, or None and the reason why memory did not suffice.

    The error is gone by the time this returns, and with it the tensors that its traceback holds on to.
    """
    try:
        return work(), ""
    except MAYBE as error:
        if isinstance(error, NoMemoryError) or not is_out_of_memory(error):
            raise
        return None, " ".join(str(error).split())[:160] or type(error).__name__


def in_parts(
    groups: Iterable[Sequence[_Item]],
    work: Callable[[Sequence[_Item]], object],
    *,
    device: torch.device,
    doing: str,
    advice: str,
) -> Iterator[tuple[Sequence[_Item], Any]]:
    """Work on groups of rows, and on halves of them once memory does not suffice.

    Args:
        groups: Rows that are worked on together.
        work: Work on some of them; called again with fewer after running out of memory.
        device: The device whose memory is short.
        doing: For the log: "out of memory while ...".
        advice: Advice for a single row that does not fit.

    Yields:
        Rows, and what the work on them returned.

    Raises:
        NoMemoryError: Not even one row fits.
    """
    waiting, most = deque(groups), 0
    while waiting:
        rows = waiting.popleft()
        if most and len(rows) > most:
            waiting.extendleft(reversed([rows[start : start + most] for start in range(0, len(rows), most)]))
            continue
        done, reason = attempt(lambda rows=rows: work(rows))
        if not reason:
            yield rows, done
            continue
        make_room(device)
        if len(rows) == 1:
            raise NoMemoryError(f"there is no memory for {doing} even one at a time ({reason}): {advice}")
        most = len(rows) // 2
        log.warning("out of memory while %s: %d at a time from now on", doing, most)
        waiting.appendleft(rows)


def _left_by_container(root: Path) -> Iterator[int]:
    """What the limit of this process's control group leaves, where it has one."""
    for limit, used in _LIMITS:
        try:
            most, taken = ((root / name).read_text(encoding="ascii").strip() for name in (limit, used))
        except OSError:
            continue
        if most.isdecimal() and taken.isdecimal():
            yield max(0, int(most) - int(taken))


def _left_to_process() -> Iterator[int]:
    """What `ulimit -v` leaves, where there is one."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):  # Linux has it
        return
    most = process.rlimit(psutil.RLIMIT_AS)[0]
    if most != psutil.RLIM_INFINITY:
        yield max(0, most - process.memory_info().vms)
