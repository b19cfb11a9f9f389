"""The options of `seal continual`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace

from seal_lightning.commands.continual.countermeasure import Countermeasure
from seal_lightning.commands.continual.countermeasures import SHORT
from seal_lightning.commands.continual.updates import Combine
from seal_lightning.commands.standalone import add_model
from seal_lightning.data import Reader
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.options.parser import Parser

DESCRIPTION = """\
Learns contexts one after another: for each, a self-edit is written, its adapter is trained and added to the policy, and
the queries of all earlier contexts are asked again. The retention matrix is averaged over orders and seeds, for the
plain stream and for every countermeasure against forgetting, on the same orders and seeds. The options under model are
those of seal fit. With --show FILE, an existing matrix (ours or the authors' form) is printed instead.
"""
LEAST = {"contexts": 2, "orders": 1, "seeds": 1, "best_of": 1}
NAMES = list(SHORT)[1:]


def read_options(args: Sequence[str]) -> tuple[Parser, Namespace]:
    """The parser, and the options as written, checked.

    Raises:
        ConfigError: An option is unknown, or has a value that cannot work.
    """
    parser = _parser(args)
    settings = parser.settings(args)
    for name, least in LEAST.items():
        check_count(name, settings[name], least=least)
    if settings.heatmap and not settings.heatmap.endswith(".svg"):
        raise ConfigError(f"--heatmap {settings.heatmap}: expected a name that ends in .svg: rename it")
    settings.countermeasures = spelled(settings.countermeasures)
    if not settings.show and settings.data is None:
        raise ConfigError("--data is not set: name a file or folder with contexts and queries (seal continual --help)")
    return parser, settings


def _parser(args: Sequence[str]) -> Parser:
    parser = Parser("continual", description=DESCRIPTION, usage="seal continual --data PATH [--KEY VALUE ...]")
    parser.add_argument("--config", action="config", help="YAML file with these options.")
    parser.add_argument(
        "--data", type=str | Reader | None, default=None, help="Contexts with queries: a file, a folder or a reader."
    )
    parser.add_argument("--contexts", type=int, default=8, help="Contexts in a stream, the first of the data.")
    parser.add_argument("--orders", type=int, default=3, help="Orders of the contexts; the first is that of the data.")
    parser.add_argument("--seeds", type=int, default=1, help="Streams in each order, with different random choices.")
    parser.add_argument(
        "--own_contexts", action="store_true", help="Give each order contexts of its own, as in the paper."
    )
    parser.add_argument(
        "--unrelated", type=str | Reader | None, default=None, help="Contexts whose queries are asked at every step."
    )
    parser.add_argument(
        "--combine", type=Combine, default="merge", help="Merge updates into the weights, or stack them beside."
    )
    parser.add_argument(
        "--best_of", type=int, default=1, help="Self-edits for each context; the best by reward is learnt."
    )
    parser.add_argument(
        "--countermeasures",
        type=str | list[str | Countermeasure],
        default=[],
        help=f"Tried beside the plain stream: {', '.join(NAMES)}, separated by commas, or a list with class_path and "
        "init_args; all takes all of these.",
    )
    parser.add_argument("--output", type=str, default="continual", help="Folder for matrices, adapters and self-edits.")
    parser.add_argument("--resume", action="store_true", help="Resume in a folder, or add streams to it.")
    parser.add_argument("--show", type=str | None, default=None, help="Print the matrices of this file, and stop.")
    parser.add_argument("--heatmap", type=str | None, default=None, help="Draw them as SVG into this file.")
    add_model(parser, args, defaults={"model.e_step.edits": 1, "model.e_step.repeats": 1})
    return parser


def spelled(wanted: str | Sequence[object]) -> list[object]:
    """The countermeasures as a list, with every name in place of `all`."""
    listed = wanted.split(",") if isinstance(wanted, str) else wanted
    expanded: list[object] = []
    for measure in listed:
        expanded += NAMES if isinstance(measure, str) and measure.strip() == "all" else [measure]
    return expanded


def resolve(wanted: str | Sequence[object]) -> list[Countermeasure]:
    """The countermeasures, made where they are given by short name.

    Raises:
        ConfigError: No countermeasure has that name.
    """
    measures: list[Countermeasure] = []
    for measure in spelled(wanted):
        name = str(measure).strip()
        if not isinstance(measure, Countermeasure) and name not in NAMES:
            raise ConfigError(f"countermeasures: expected some of {', '.join(NAMES)} or all, got {measure!r}")
        measures.append(measure if isinstance(measure, Countermeasure) else SHORT[name]())
    return measures
