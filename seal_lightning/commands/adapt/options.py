"""The options of `seal adapt`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Literal

from jsonargparse import Namespace

from seal_lightning.commands.adapt.edits import Learn
from seal_lightning.commands.adapt.jobs import OF_LORA
from seal_lightning.commands.adapt.unrelated import GENERAL
from seal_lightning.commands.adapt.unrelated import OPTION as OTHERS
from seal_lightning.commands.standalone import add_model, allowed_here, given, set_model, settings_of
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.generator.files import OPTION, generator_folder, read_settings
from seal_lightning.generator.merging import Way
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.options.mistakes import given_options, read_config_files
from seal_lightning.options.parser import Parser
from seal_lightning.sharing.hub import add_hub

log = logging.getLogger(__name__)

# Options of `model` that a generator's run sets here; the others are about edits and training.
TAKEN = ("source", "task", "grader", "max_answer_tokens", "answer_batch", "answerer", "seed")
# How the names of options begin that a generator leaves without use.
WITHOUT = ("tuning", "learn", "keep", "held_out", "passage_chars", "contexts_per_unit", "save_every", "together")
WITHOUT += tuple(f"model.{name}" for name in ("sampler", "inner_loop", "e_step", "reward", "rubric", "query_writer"))
OF_GENERATOR = ("merging", "merging_rank")
Kinds = Literal["each", "all", "both"]
Tuning = Literal["lora", "full"]
DESCRIPTION = """\
Documents in, adapters out. A DOCUMENT is a file or folder of texts or Markdown, JSON or JSON Lines with passages (and
queries, if there are any), or - for standard input. The policy (or another editor: model.sampler) writes self-edits
about every passage. The best are kept, by the document's queries or by queries that a model writes; adapters are
trained on them and written as PEFT folders with a model card. With --generator, a trained generator writes the adapters
instead. The options under model are those of seal fit.
"""


def read_options(args: Sequence[str]) -> tuple[Parser, Namespace]:
    """The parser, and the options as written, checked.

    Raises:
        ConfigError: An option is unknown, or has a value that cannot work.
    """
    refuse_together(args)
    parser = _parser(args)
    settings = parser.settings(args)
    if not settings.documents:  # the empty list of the command line outranks that of a config file
        named = [content["documents"] for _, content in read_config_files(args) if content.get("documents")]
        settings.documents = named[-1] if named else []
    if not settings.documents:
        raise ConfigError("DOCUMENT is not set: name files or folders, or - for standard input (seal adapt --help)")
    _refuse_for_full(settings, given_options(args, read_config_files(args)))
    for name in ("keep", "contexts_per_unit", "save_every", "merging_rank"):
        if settings[name] is not None:
            check_count(name, settings[name])
    if not 0 <= settings.held_out <= 1:
        raise ConfigError(
            f"--held_out must be a share from 0 to 1, got {settings.held_out}: try 0.5, or 0 to hold out nothing"
        )
    if not (settings.skill_scale and math.isfinite(settings.skill_scale)):
        raise ConfigError(
            f"--skill_scale must be a number other than 0, got {settings.skill_scale}: try 0.5, or leave --skill out"
        )
    return parser, settings


def _refuse_for_full(settings: Namespace, named: Sequence[str]) -> None:
    """Refuse what has no meaning where all weights are trained, or weights that are to be trained by a generator.

    Raises:
        ConfigError: Names the first such option.
    """
    if settings.tuning != "full":
        return
    if settings.generator is not None:
        raise ConfigError(f"--tuning full and {OPTION} were both given: expected one of them, leave the other out")
    if settings.skill is not None:
        raise ConfigError("--skill adds to an adapter, and --tuning full makes none: leave one of them out")
    if settings.adapters != "all":
        raise ConfigError(
            f"--tuning full trains one model on all documents: expected --adapters all, got {settings.adapters}"
        )
    if settings.merged:
        raise ConfigError("--merged does nothing with --tuning full, which writes whole weights anyway: leave it out")
    if useless := [name for name in named if name in {f"together.{name}" for name in OF_LORA}]:
        raise ConfigError(f"{useless[0]} is about a LoRA, and --tuning full trains all weights: leave it out")


def _parser(args: Sequence[str]) -> Parser:
    parser = Parser("adapt", description=DESCRIPTION, usage="seal adapt DOCUMENT ... --output FOLDER [--KEY VALUE ...]")
    parser.add_argument("documents", nargs="*", metavar="DOCUMENT", type=str, help="Files and folders, or -.")
    parser.add_argument("--config", action="config", help="YAML file with these options.")
    parser.add_argument("--output", type=str, default="adapted", help="Folder for adapters, journal and table.")
    parser.add_argument("--adapters", type=Kinds, default="each", help="One a document, one for all, or both.")
    parser.add_argument("--tuning", type=Tuning, default="lora", help="One for all: a LoRA, or all weights (full).")
    parser.add_argument("--learn", type=Learn, default="edits", help="Self-edits, or the passages themselves.")
    parser.add_argument(
        "--keep", type=int | None, default=1, help="Edits of a passage to train on, the best ones; null takes all."
    )
    parser.add_argument(
        "--queries", type=str | None, default=None, help="JSON rows with document, question and answer, to score with."
    )
    _add_measuring(parser)
    parser.add_argument("--passage_chars", type=int, default=2000, help="Longest passage; longer documents are cut.")
    parser.add_argument(
        "--strict", action="store_true", help="Stop at an unusable document of a folder instead of leaving it out."
    )
    parser.add_argument("--contexts_per_unit", type=int, default=4, help="Passages that are worked on together.")
    parser.add_argument("--save_every", type=int, default=50, help="Optimizer steps between two checkpoints.")
    parser.add_argument("--merged", action="store_true", help="Also write whole weights with the adapter merged in.")
    parser.add_argument(
        "--data_licence", type=str | None, default=None, help="Licence of the documents, for the model cards."
    )
    parser.add_argument("--resume", action="store_true", help="Resume an interrupted run in its folder.")
    parser.add_argument("--dry_run", action="store_true", help="Estimate tokens, time and memory, and write nothing.")
    parser.add_argument(
        OPTION,
        type=str | None,
        default=None,
        help="A run that trained a generator, or its folder policy: each adapter is written in one forward pass.",
    )
    parser.add_argument(
        "--merging", type=Way, default="least_squares", help="How the generator's adapters become one for all."
    )
    parser.add_argument(
        "--merging_rank", type=int | None, default=None, help="Largest rank of that adapter; null loses nothing."
    )
    parser.add_argument(
        "--skill",
        type=str | None,
        default=None,
        help="A run of `seal fit`, or a PEFT folder: its M-step's change is added to every adapter after training.",
    )
    parser.add_argument("--skill_scale", type=float, default=1.0, help="How often that counts.")
    parser.add_class_arguments(InnerLoop, "together")
    parser.set_defaults({"together.epochs": 3, "together.batch_size": 8})  # the paper's continued pre-training
    add_hub(parser)
    add_model(parser, args, defaults={"model.e_step.repeats": 1})
    if generator := given(args, "generator"):
        set_model(parser, _settings_beside(generator, args), f"{OPTION} {generator}")
    return parser


def _add_measuring(parser: Parser) -> None:
    parser.add_argument(
        "--held_out",
        type=float,
        default=0.5,
        help="Share of a document's queries that measure and choose no edits; 0 lets all of them do both.",
    )
    parser.add_argument(
        OTHERS,
        type=str | None,
        default=GENERAL,
        help="JSON rows with question and answer about other things, to see what learning costs, or none.",
    )


def _settings_beside(generator: str, args: Sequence[str]) -> dict[str, object]:
    """The settings of `model` that belong to a generator: its run's, or where only its folder is there, what that says.

    Raises:
        ConfigError: There is no generator, or it asks for what only the user may choose.
    """
    folder = generator_folder(generator)
    if settings := settings_of(generator, args, option=OPTION, names=TAKEN):
        return settings
    content = read_settings(folder)
    named = {"source": {"name": content["base"].get("name"), "revision": content["base"].get("revision")}}
    if content.get("task"):
        named["task"] = content["task"]
    return allowed_here(named, args, f"{OPTION} {generator}", run=folder)


def refuse_together(args: Sequence[str]) -> None:
    """Refuse options that would do nothing beside the others; those of a config file are told.

    Raises:
        ConfigError: Names the first such option of the command line.
    """
    files = read_config_files(args)
    skilled = given(args, "skill") is not None
    if skilled and given(args, "policy") is not None:
        raise ConfigError(
            "--skill and --policy were both given: expected one of them, since a policy contains what its M-step has "
            "learnt; leave the other out (edits of a policy can be read from a file, docs/endpoints.md)"
        )
    if not skilled and "skill_scale" in given_options(args, files):
        raise ConfigError("skill_scale is of use with --skill alone: leave it out, or name a run")
    if given(args, "generator") is None:
        if useless := [name for name in given_options(args, files) if name in OF_GENERATOR]:
            raise ConfigError(f"{useless[0]} is of use with {OPTION} alone: leave it out, or name a generator's run")
        return
    if given(args, "policy") is not None:
        raise ConfigError(f"{OPTION} and --policy were both given: expected one of them, leave the other out")
    if useless := [name for name in given_options(args, []) if name.startswith(WITHOUT)]:
        raise ConfigError(
            f"--{useless[0]} does nothing with {OPTION}, which writes adapters without edits or training: leave it out"
        )
    if idle := [name for name in given_options([], files) if name.startswith(WITHOUT)]:
        sections = dict.fromkeys(".".join(name.split(".")[: 2 if name.startswith("model.") else 1]) for name in idle)
        log.warning(
            "%s writes adapters without edits or training: %s of the config file do nothing",
            OPTION,
            ", ".join(sections),
        )
