"""Chat templates are programs written by whoever made the model: they run in a sandbox and for a limited time.

transformers' sandbox keeps a template from Python's internals and from files. Here it is kept from running on: what it
is made of is checked before it is compiled (compiling already computes what is constant), and while it runs, its steps,
its time and its memory are counted. A single operation of Python is not interrupted, so those that can make much of
little are refused or kept small, and the process gets no more memory from the system meanwhile.
"""

from __future__ import annotations

import re
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, nodes

from seal_lightning.errors import ModelError, SealError

CHARACTERS = 200_000  # of a template; the longest known ones have about 30,000
NUMBER = 100_000  # the largest number in one; known ones have 16,384
RANGE = 10_000  # numbers of one range
STEPS = 1_000_000  # lines of the compiled template
SECONDS = 10.0
MEMORY = 1 << 19  # KiB that the process may grow by
_WIDE = re.compile(r"[%{][^%{}]{0,20}\d{5,}")  # a format that fills up
_RENDERING = threading.RLock()  # the limit on memory is one of the process
_SIMPLE = (nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem)


class TemplateOverrun(SealError):
    """A template exceeded a limit, which must not be mistaken for one that lacks a feature."""

    exit_code = ModelError.exit_code


def check_source(source: str, environment: Environment) -> None:
    """Refuse a template that is too long, or could make something huge in one step.

    Raises:
        ValueError: The template holds something too large; the message does not name the model.
        jinja2.TemplateError: The source is not a template.
    """
    if len(source) > CHARACTERS:
        raise ValueError(f"expected at most {CHARACTERS:,} characters, got {len(source):,}")
    for node in environment.parse(source).find_all((nodes.Pow, nodes.Mul, nodes.Const)):
        sides = (node.left, node.right) if isinstance(node, nodes.Mul) else ()
        value = node.value if isinstance(node, nodes.Const) else None
        if isinstance(node, nodes.Pow):
            raise ValueError(f"line {node.lineno}: powers are not computed (**)")
        if not all(isinstance(side, _SIMPLE) for side in sides):
            raise ValueError(f"line {node.lineno}: products of more than two names or numbers are not computed")
        if sides and not any(isinstance(side, nodes.Const) for side in sides):
            raise ValueError(f"line {node.lineno}: products of two names are not computed")
        if isinstance(value, int | float) and not abs(value) <= NUMBER:
            raise ValueError(f"line {node.lineno}: expected numbers up to {NUMBER:,}, got {value!r:.40}")
        if isinstance(value, str) and (wide := _WIDE.search(value)):
            raise ValueError(f"line {node.lineno}: expected widths of up to 4 digits, got {wide[0]!r}")


def short_range(*bounds: int) -> range:
    """`range` of at most `RANGE` numbers, for templates. Raises `OverflowError`."""
    numbers = range(*bounds)
    if len(numbers) > RANGE:
        raise OverflowError(f"expected a range of at most {RANGE:,} numbers, got {len(numbers):,}")
    return numbers


@contextmanager
def limited() -> Iterator[None]:
    """Let templates that are compiled or rendered in this block, on this thread, take limited time and memory.

    Raises:
        TemplateOverrun: The template exceeded a limit; raised inside it, which ends it.
    """
    before = sys.gettrace()
    ends, most, steps = time.thread_time() + SECONDS, _peak() + MEMORY, 0

    def on_line(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > STEPS:
            raise TemplateOverrun(f"it takes more than {STEPS:,} steps")
        if time.thread_time() > ends:
            raise TemplateOverrun(f"it takes more than {SECONDS:g} seconds of processor time")
        if _peak() > most:
            raise TemplateOverrun(f"it takes more than {MEMORY >> 10} MiB of memory")
        return on_line

    def on_call(frame: Any, event: str, argument: Any) -> Any:
        return on_line if frame.f_code.co_filename == "<template>" else None  # as Jinja calls what it compiles

    with _RENDERING, _no_more_memory():
        sys.settrace(on_call)
        try:
            yield
        except MemoryError:
            raise TemplateOverrun(f"it takes more than {MEMORY >> 10} MiB of memory") from None
        finally:
            sys.settrace(before)


@contextmanager
def _no_more_memory() -> Iterator[None]:
    """Refuse the process what a single operation would take beyond `MEMORY`; where the system cannot tell, nothing."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + (MEMORY << 10)
    is_less = soft == resource.RLIM_INFINITY or most < soft
    try:
        if is_less:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        yield
    finally:
        if is_less:
            with suppress(ValueError):  # the hard limit was lowered from outside
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _peak() -> int:
    """The most memory that the process had so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
