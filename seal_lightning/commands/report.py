"""`seal report RUN ...`: what happened in a run, as one self-contained HTML page and a Markdown one beside it.

    read (journals, configuration, tables) -> measure -> advise -> charts -> page (templates) -> two files

A run may be going on, killed or only begun. Several runs are compared on one page. Nothing that a run wrote is trusted:
its texts are escaped, and nothing that it names is imported or used as a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seal_lightning.errors import ConfigError
from seal_lightning.options.parser import Parser, write_file
from seal_lightning.report.writing import write_report

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
    parser = Parser("report", description=DESCRIPTION, usage="seal report RUN [RUN ...] [--KEY VALUE ...]")
    parser.add_argument("runs", nargs="*", metavar="RUN", type=str, help="Run folders, or single files of a run.")
    parser.add_argument(
        "--output",
        type=str | None,
        help="The HTML file; the Markdown file gets the same name with .md. By default report.html in the first run.",
    )
    parser.add_argument(
        "--gpu_prices",
        type=str | None,
        help="YAML with dollars an hour by GPU, such as configs/gpu_prices.yaml: adds what each round cost.",
    )
    parser.add_argument(
        "--prices",
        type=str | None,
        help="YAML with dollars per million tokens by model, such as configs/prices.yaml: adds what each of these "
        "models would have charged for as many edits.",
    )
    options = parser.read(args)
    if not options.runs:
        raise ConfigError("RUN is not set: name a run folder, such as runs/quickstart (seal report --help)")
    if options.output and Path(options.output).suffix not in (".html", ".htm"):
        raise ConfigError(f"--output {options.output}: expected a name that ends in .html: rename it")
    sources = [Path(source).expanduser() for source in options.runs]

    def save(path: Path, text: str) -> None:
        write_file("--output", str(path), text, unlike=sources)

    html, markdown = write_report(
        options.runs,
        Path(options.output) if options.output else None,
        gpu_prices=options.gpu_prices,
        prices=options.prices,
        save=save,
    )
    print(f"report: {html} ({html.expanduser().stat().st_size / 1000:,.0f} kB) and {markdown}")
