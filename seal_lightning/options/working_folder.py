"""Modules of the working folder, which the `seal` script would not find where Python itself looks.

The folder comes last in the search path, so that it hides nothing; and only where the command line or one of its config
files names a module of it, so that a command which merely reads files of strangers imports nothing from among them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_PATH = re.compile(r"[A-Za-z_]\w{0,200}(?:\.[A-Za-z_]\w{0,200}){1,20}")


def find_modules_here(args: Sequence[str], files: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Let Python find modules of the working folder where a command names one, as the processes that it starts will.

    Args:
        args: The command line.
        files: Its config files and what is in them.
    """
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        return
    texts = [*args, *(text for _, content in files for text in _texts(content))]
    if any(_is_module(path) for text in texts for path in _PATH.findall(text)):
        sys.path.append(here)


def _is_module(path: str) -> bool:
    """Whether all but the last part of `my_package.my_module.MyClass` is a module of the working folder."""
    parts = path.split(".")[:-1]
    return any(
        Path(*parts[:length]).with_suffix(".py").is_file() or Path(*parts[:length], "__init__.py").is_file()
        for length in range(1, len(parts) + 1)
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from filter(lambda key: isinstance(key, str), value)  # a reward's terms by weight
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
