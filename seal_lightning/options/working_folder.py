"""Modules of the working folder, which the `seal` script would not find where Python looks by default.

The folder comes last in the search path, so that it hides nothing. It is added only if the command line or a config
file names one of its modules, so that a command that merely reads files of strangers imports none of them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from seal_lightning.options.config_files import texts_in

_PATH = re.compile(r"[A-Za-z_]\w{0,200}(?:\.[A-Za-z_]\w{0,200}){1,20}")


def find_modules_here(args: Sequence[str], files: Sequence[tuple[str, Mapping[str, object]]]) -> None:
    """Let Python find modules of the working folder if the command line or its config files name one."""
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        return
    texts = [*args, *(text for _, content in files for text in texts_in(content))]
    if any(_is_module(path) for text in texts for path in _PATH.findall(text)):
        sys.path.append(here)


def _is_module(path: str) -> bool:
    """Whether all but the last part of `my_package.my_module.MyClass` is a module of the working folder."""
    parts = path.split(".")[:-1]
    return any(
        Path(*parts[:length]).with_suffix(".py").is_file() or Path(*parts[:length], "__init__.py").is_file()
        for length in range(1, len(parts) + 1)
    )
