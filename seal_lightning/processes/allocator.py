"""Keep freed memory in the process: on a CPU a step frees and asks for the same large tensors again and again.

The C library gives large blocks back to the system at once and gets them again page by page, which costs a training
step of a small model a tenth to a fifth of its time (benchmarks/RESULTS.md). The price: a process keeps the largest
size it had.
"""

import ctypes

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_TOP = 64 << 20  # bytes asked for beyond what is needed


def keep_freed_memory() -> None:
    """For this process, from now on; does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_TOP_PAD, _TOP)
