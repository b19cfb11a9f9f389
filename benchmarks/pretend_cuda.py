"""A GPU for machines without one: tensors that say they are on cuda:0, with their numbers in the CPU's memory.

    with PretendCuda() as gpu:
        model.to("cuda:0"); ...
    print(len(gpu.launches), gpu.reads)

Code takes its branches for CUDA and gets real numbers, and what would go wrong on a GPU goes wrong here: tensors of two
devices in one operation, dtypes and strides that CUDA's grouped matrix product refuses. Counted are the kernels that
would be launched (one an operation, views are free), the copies to the device, and the places that read the device: at
each of them the host waits for it. Kernels, memory and time are the CPU's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from torch.nn import functional
from torch.nn.attention import varlen
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
_MEMORY = (60 << 30, 80 << 30)  # bytes, free and in all
# Their results have sizes that depend on numbers, or are numbers: the host waits for them.
_READS = {"_local_scalar_dense", "equal", "nonzero", "nonzero_numpy", "masked_select", "unique_dim",
          "unique_consecutive", "_unique", "_unique2", "bincount"}  # fmt: skip
_COPIES = {"_to_copy", "copy_", "lift_fresh"}


class PretendTensor(torch.Tensor):
    """To Python on cuda:0; to autograd a tensor without memory (`meta`); `inner` has the numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="meta",
        )  # fmt: skip
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"PretendTensor({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor on the pretended cuda:0 is used outside of PretendCuda")


class PretendCuda(TorchDispatchMode):
    """While it is active, cuda:0 can be used.

    Args:
        capability: What the GPU can do, as `torch.cuda.get_device_capability` says it: Hopper's.

    Attributes:
        launches: Names of the operations that ran there, in order.
        reads: Where the host read the device: "operation at file:line function".
        sent: Where the host sent tensors there, likewise.
    """

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        self.capability = capability
        self.launches: list[str] = []
        self.reads: list[str] = []
        self.sent: list[str] = []

    def __enter__(self) -> PretendCuda:
        with ExitStack() as stack:
            memory = {"mem_get_info": _MEMORY, "memory_reserved": 0, "memory_allocated": 0, "empty_cache": None}
            others = {"_lazy_init": None, "synchronize": None, "get_device_capability": self.capability}
            for name, value in {**memory, **others, "current_device": 0}.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, value=value: value))
            before = torch._C._only_lift_cpu_tensors()
            torch._C._set_only_lift_cpu_tensors(True)  # or `torch.tensor(list, device=...)` asks for a real device
            stack.callback(torch._C._set_only_lift_cpu_tensors, before)
            stack.enter_context(_OneAttention())
            stack.enter_context(mock.patch.object(varlen, "varlen_attn", self._attention_of_any_lengths))
            plain = (torch.nn.Parameter, PretendTensor)  # what is a parameter on a GPU has this class here
            stack.enter_context(mock.patch("seal_lightning.models.beside.PLAIN", plain))
            self._stack = stack.pop_all()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._stack.close()

    def _attention_of_any_lengths(
        self, q: Any, k: Any, v: Any, starts: Any, _: Any, longest: int, __: int, *, scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Any:  # fmt: skip
        """torch's `varlen_attn`, which only GPUs have; refuses what its kernel refuses."""
        if not (q.dtype == k.dtype == v.dtype and q.dtype in (torch.bfloat16, torch.float16)):
            raise RuntimeError(f"varlen_attn: only half precision, got {q.dtype}, {k.dtype} and {v.dtype}")
        if starts.dtype != torch.int32 or any(tensor.stride(-1) != 1 for tensor in (q, k, v)) or q.shape != k.shape:
            raise RuntimeError(
                "varlen_attn: starts have to be int32, heads in a row, and as many of keys as of queries"
            )
        assert window_size == (-1, 0), "causal"
        places = starts.inner.tolist()
        assert max(end - start for start, end in pairwise(places)) <= longest
        return _AnyLengths.apply(q, k, v, places, scale, self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name, options = func._schema.name.partition("::")[2], dict(kwargs or {})
        tensors = [leaf for leaf in pytree.arg_tree_leaves(*args, **options) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        here = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
        target = torch.device(options["device"]).type if options.get("device") is not None else ""
        options.pop("pin_memory", None)
        if name in ("pin_memory", "_pin_memory"):
            return args[0]
        if name == "is_pinned":
            return False
        if target:
            options["device"] = CPU
        if not there and target not in ("cuda", "meta"):
            return func(*args, **options)
        _check(func, name, args, there, here)
        result = func(*pytree.tree_map(_inner, args), **pytree.tree_map(_inner, options))
        if reads(name, args, options, target):
            self.reads.append(f"{name} at {_where()}")
            return args[0] if name == "copy_" else result
        if name in _COPIES and here:
            self.sent.append(f"{name} at {_where()}")
        if not _is_view(func):
            self.launches.append(name)
        known = {id(tensor.inner): tensor for tensor in there}  # what is changed in place stays the same tensor

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return known[id(value)] if id(value) in known else PretendTensor(value)

        return pytree.tree_map(wrap, result)


class _OneAttention(TorchFunctionMode):
    """Attention as one operation, as on a GPU: for tensors without memory torch would take it to pieces."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention and isinstance(args[0], PretendTensor):
            options.pop("enable_gqa", None)  # the kernel sees it by the numbers of heads
            mask = options.get("attn_mask")
            if mask is not None and mask.dtype == torch.bool:  # the CPU's kernel adds masks only
                added = torch.zeros(mask.shape, dtype=args[0].dtype).masked_fill_(~mask.inner, float("-inf"))
                options["attn_mask"] = PretendTensor(added)
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **options)[0]
        return func(*args, **options)


class _AnyLengths(torch.autograd.Function):
    """Causal attention of each sequence (T, H, D), one after the other; one kernel forward and three backward."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, places: Sequence[int], scale: float | None, gpu: PretendCuda) -> Any:
        ctx.given, ctx.places, ctx.scale, ctx.gpu = (q, k, v), places, scale, gpu
        gpu.launches.append("varlen_attn")
        return PretendTensor(_each(*(tensor.inner for tensor in (q, k, v)), places, scale))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
        ctx.gpu.launches.extend(["varlen_attn_backward"] * 3)
        with torch.enable_grad():
            given = [tensor.inner.detach().requires_grad_() for tensor in ctx.given]
            grads = torch.autograd.grad(_each(*given, ctx.places, ctx.scale), given, grad.inner)
        return *(PretendTensor(each) for each in grads), None, None, None


def _each(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, places: Sequence[int], scale: float | None
) -> torch.Tensor:
    parts = []
    for start, end in pairwise(places):
        heads = [tensor[start:end].transpose(0, 1)[None] for tensor in (q, k, v)]
        attended = functional.scaled_dot_product_attention(*heads, is_causal=True, scale=scale)
        parts.append(attended[0].transpose(0, 1))
    return torch.cat(parts)


def reads(name: str, args: Sequence[Any], options: Mapping[str, Any], target: str) -> bool:
    """Whether an operation on tensors of the device makes the host wait for it."""
    if name in _READS or (name == "repeat_interleave" and options.get("output_size") is None):
        return True
    if name == "_to_copy":
        return target == "cpu" and isinstance(args[0], PretendTensor)
    if name == "copy_":
        return not isinstance(args[0], PretendTensor)
    return name == "index" and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _check(
    func: Any, name: str, args: Sequence[Any], there: Sequence[torch.Tensor], here: Sequence[torch.Tensor]
) -> None:
    """Raise what CUDA raises; a single number may come from the host."""
    if there and name not in _COPIES and any(tensor.dim() for tensor in here):
        raise RuntimeError(f"{func}: expected all tensors on one device, found cuda:0 and cpu, at {_where()}")
    if name == "_grouped_mm":
        for tensor in args[:2]:
            rows, columns = tensor.stride()[-2:]
            long = max(rows, columns, tensor.stride(0) if tensor.dim() == 3 else 0)
            aligned = min(rows, columns) == 1 and long % 8 == 0 and tensor.storage_offset() % 8 == 0
            if tensor.dtype != torch.bfloat16 or not aligned:
                shape = f"{tensor.dtype}, shape {tuple(tensor.shape)}, strides {tensor.stride()}"
                raise RuntimeError(f"_grouped_mm: CUDA is fast for bfloat16 in rows of 16 bytes only, got {shape}")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendTensor) else value


def _is_view(func: Any) -> bool:
    aliases = [returned.alias_info for returned in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _where() -> str:
    """The innermost line of this package or of transformers that is being run."""
    frame = sys._getframe(2)
    while frame is not None:
        for package in ("seal_lightning", "transformers"):
            _, found, name = frame.f_code.co_filename.partition(f"/{package}/")
            if found:
                return f"{package}/{name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
