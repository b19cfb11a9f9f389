"""Writes the report about some runs: an HTML file that needs nothing else, and a Markdown file beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from seal_lightning.errors import ConfigError
from seal_lightning.files.extras import install
from seal_lightning.files.saving import save_bytes
from seal_lightning.report.costs import read_prices
from seal_lightning.report.read import read_all

OURS = re.compile(rb"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC by seal-lightning ")  # in the last line of both files


def _save(path: Path, text: str) -> None:
    save_bytes(path, text.encode(errors="replace"))


def write_report(
    sources: Sequence[str],
    output: Path | None = None,
    *,
    gpu_prices: str | None = None,
    prices: str | None = None,
    save: Callable[[Path, str], None] = _save,
) -> tuple[Path, Path]:
    """Write the report about some runs.

    Args:
        sources: Run folders, or single files of a run.
        output: The HTML file; by default `report.html` in the first run, or beside it where it is a file.
        gpu_prices: A file of dollars an hour by GPU, for what rounds cost.
        prices: A file of dollars a million tokens by model, for what their edits would have cost.
        save: How a file is written.

    Returns:
        The HTML file and the Markdown file.

    Raises:
        ConfigError: Another file is in the way, a package is missing, or prices cannot be used or lack a GPU.
        DataError: A run cannot be used.
        SavingError: A file cannot be written.
    """
    tables = read_prices(gpu_prices, prices)
    runs = read_all(sources)
    try:
        from seal_lightning.report.page import render
    except ImportError as error:  # torch brings it, but need not for ever
        raise ConfigError(f"seal report needs {error.name}, which is not installed: {install('report')}") from error
    source = Path(sources[0]).expanduser()
    beside = source / "report.html" if source.is_dir() else source.with_name(f"{source.name}.report.html")
    place = output or beside
    for path in (place, place.with_suffix(".md")):
        _check_free(path)
    html, markdown = render(runs, now=time.time(), prices=tables)
    save(place, html)
    save(place.with_suffix(".md"), markdown)
    return place, place.with_suffix(".md")


def _check_free(path: Path) -> None:
    """Only an earlier report is written over: `fit.html` would have `fit.md`, a run's table, beside it."""
    path = path.expanduser()
    if path.is_symlink() or (path.exists() and not (path.is_file() and OURS.search(path.read_bytes()))):
        got = "a link" if path.is_symlink() else "another file or a folder"  # a run's link may lead anywhere
        raise ConfigError(
            f"{path}: expected a new file or an earlier report, got {got}: choose another name with --output (the "
            "Markdown file gets the same name with .md)"
        )
