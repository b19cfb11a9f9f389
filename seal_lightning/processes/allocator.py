"""How memory is allocated: a step frees and asks for large tensors again and again, each time of other sizes.

On a CPU the C library gives large blocks back to the system at once and gets them again page by page, which costs a
training step of a small model a tenth to a fifth of its time (benchmarks/RESULTS.md). The price: a process keeps the
largest size it had. On a GPU torch keeps what was freed, but blocks of one size do not serve another: segments that
grow do (https://docs.pytorch.org/docs/stable/notes/cuda.html).
"""

import ctypes
from collections.abc import Mapping

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # the last two are older names
_TOP = 64 << 20  # bytes asked for beyond what is needed


def keep_freed_memory() -> None:
    """For this process, from now on; does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_TOP_PAD, _TOP)


def gpu_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variable for torch's allocator on a GPU, which it reads once; none where the user has set one."""
    return {} if any(name in environment for name in _SETTINGS) else {_SETTINGS[0]: "expandable_segments:True"}
