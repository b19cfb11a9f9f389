"""`seal report RUN ...`: what happened in a run, as one self-contained HTML page and a Markdown one beside it.

    read (journals, configuration, tables) -> measure -> advise -> charts -> page (templates) -> two files

A run may be going on, killed or only begun. Several runs are compared on one page. Nothing that a run wrote is trusted:
its texts are escaped, and nothing that it names is imported or used as a path.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from seal_lightning.errors import ConfigError
from seal_lightning.files.extras import install
from seal_lightning.options.parser import Parser, write_file
from seal_lightning.report.nested import read_all

OURS = re.compile(rb"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC by seal-lightning ")  # part of the last line of both files
DESCRIPTION = """\
Writes one HTML file that needs nothing else, and a Markdown file beside it, about a run: accuracy over rounds with
intervals, rewards, lengths, costs, retention, the best and worst self-edits with the queries they won and lost,
settings, and warnings with what to do. A RUN is a run folder (it may still be running), a journal, an official
run_*.json, a retention matrix or a folder of runs such as that of a sweep. Several are compared: runs that differ only
in their seed are one group, with means and intervals over seeds. Runs that lie in the folder of another, such as its
control, are shown with it.
"""


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work.
        DataError: A run cannot be used.
    """
    options = _options(args)
    runs = read_all(options.runs)
    try:
        from seal_lightning.report.page import render
    except ImportError as error:  # torch brings it along, but need not always
        raise ConfigError(f"seal report needs {error.name}, which is not installed: {install('report')}") from error
    place = options.output or _place(Path(options.runs[0]).expanduser())
    beside = str(Path(place).with_suffix(".md"))
    _check_free(place, beside)
    html, markdown = render(runs, now=time.time())
    for name, text in ((place, html), (beside, markdown)):
        write_file("--output", name, text, unlike=[Path(source).expanduser() for source in options.runs])
    print(f"report: {place} ({len(html.encode()) / 1000:,.0f} kB) and {beside}")


def _options(args: Sequence[str]) -> Namespace:
    parser = Parser("report", description=DESCRIPTION, usage="seal report RUN [RUN ...] [--output FILE.html]")
    parser.add_argument("runs", nargs="*", metavar="RUN", type=str, help="Run folders, or single files of a run.")
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="The HTML file; the Markdown file gets the same name with .md. By default report.html in the first run.",
    )
    options = parser.read(args)
    if not options.runs:
        raise ConfigError("RUN is not set: name a run folder, such as runs/quickstart (seal report --help)")
    if options.output and Path(options.output).suffix not in (".html", ".htm"):
        raise ConfigError(f"--output {options.output}: expected a name that ends in .html: rename it")
    return options


def _place(source: Path) -> str:
    """The place of the report about a run: in its folder, or beside its file."""
    return str(source / "report.html" if source.is_dir() else source.with_name(f"{source.name}.report.html"))


def _check_free(*names: str) -> None:
    """Only an earlier report is overwritten: beside `fit.html`, `fit.md` would be a run's table."""
    for name in names:
        path = Path(name).expanduser()
        if path.is_symlink() or (path.exists() and not (path.is_file() and OURS.search(path.read_bytes()))):
            got = "a link" if path.is_symlink() else "another file or a folder"  # a run's link may lead anywhere
            raise ConfigError(
                f"{name}: expected a new file or an earlier report, got {got}: choose another name with --output (the "
                "Markdown file gets the same name with .md)"
            )
