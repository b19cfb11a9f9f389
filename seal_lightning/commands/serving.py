"""`seal serving FOLDER`: the command that starts vLLM with a library, or an adapter's Modelfile for Ollama.

Names, the rank and the base come from the manifest and the adapters' folders, so that nothing has to be looked up. It
prints and starts nothing: the server usually lives in an environment of its own, or on another machine.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seal_lightning.errors import ConfigError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.contained import contained
from seal_lightning.library.manifest import ADAPTERS, read_manifest
from seal_lightning.library.routed import BASE, FOLDER, Served, read_prompt, read_served
from seal_lightning.options.parser import Parser
from seal_lightning.text.placeholders import filled
from seal_lightning.types import JsonObject

DESCRIPTION = """\
Prints what serves the documents of a folder of seal adapt: with --kind vllm a command that starts vLLM with all
adapters by name (and, but for --plain, a model "auto" that the router chooses by the question); with --kind ollama the
Modelfile of one adapter, whose template is the prompt of training. Nothing is started.
"""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank of vLLM 0.32 takes
TOGETHER = 8  # adapters that vLLM computes with in one batch
CONFIG = "adapter_config.json"  # as `models.lora` has it, which brings torch
MIDDLEWARE = "seal_lightning.library.routed.Routed"


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter's own configuration says: its rank, and its base, by which vLLM finds it."""

    rank: int
    base: str
    revision: str | None


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work, or the folder holds no library.
        DataError: The library is damaged.
    """
    parser = Parser("serving", description=DESCRIPTION, usage="seal serving FOLDER [--kind vllm|ollama] [options]")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", type=str, help="A folder of seal adapt.")
    parser.add_argument("--kind", type=Literal["vllm", "ollama"], default="vllm", help="What is to serve it.")
    parser.add_argument(
        "--plain",
        type=bool,
        default=False,
        help="For a vLLM without this package: adapters by name alone, of which it keeps retired ones that were asked "
        "until it is started again.",
    )
    parser.add_argument("--adapter", type=str | None, help="For ollama: the adapter's name.")
    options = parser.read(args)
    if not options.folder:
        raise ConfigError("FOLDER is not set: name a folder of seal adapt (seal serving --help)")
    if options.adapter and options.kind != "ollama":
        raise ConfigError("--adapter is of use with --kind ollama alone: leave it out, or add that")
    folder = Path(options.folder).expanduser()
    served = read_served(folder)
    if not served.names:
        raise ConfigError(f"{folder}: expected adapters that are ready, got none: run seal adapt with --resume")
    if options.kind == "vllm":
        print(vllm_command(folder, served, plain=options.plain))
    else:
        print(_of_one(folder, options.adapter, served))


def vllm_command(folder: Path, served: Served, *, plain: bool) -> str:
    """A command for a POSIX shell."""
    configs = [_config(folder, name) for name in sorted(served.names)]
    bases = {(one.base, one.revision) for one in configs}
    if len(bases) > 1:
        raise ConfigError(f"{folder}: expected adapters of one base model, got {sorted(map(str, bases))}: adapt anew")
    ((base, revision),) = bases
    rank, place = max(one.rank for one in configs), folder.resolve()
    source = read_manifest(folder).asked_with.get("source")
    dtype = source.get("dtype") if isinstance(source, dict) else None
    variables = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(place / ADAPTERS),
        **({} if plain else {FOLDER: str(place)}),
    }
    options = [
        f"vllm serve {shlex.quote(base)} --served-model-name {BASE}",
        *([f"--revision {shlex.quote(revision)}"] if revision else []),
        *([f"--dtype {dtype}"] if dtype in ("float32", "bfloat16", "float16") else []),
        f"--enable-lora --max-lora-rank {_allowed(rank)} --max-loras {min(TOGETHER, len(served.names))}",
        *([] if plain else [f"--middleware {MIDDLEWARE}"]),
        '"$@"',  # more options, of who keeps the command in a file
    ]
    return " \\\n  ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), *options])


def _config(folder: Path, name: str) -> AdapterConfig:
    path = contained(folder, f"{ADAPTERS}/{name}/{CONFIG}")
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    rank, base, revision = content.get("r"), content.get("base_model_name_or_path"), content.get("revision")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 or not isinstance(base, str) or not base:
        got = f"got {str(rank)[:40]!r} and {str(base)[:60]!r}: run seal adapt with --resume"
        raise ConfigError(f"{path}: expected r, the rank of a LoRA, and base_model_name_or_path, {got}")
    return AdapterConfig(rank, base, revision if isinstance(revision, str) and revision else None)


def _allowed(rank: int) -> int:
    """The least rank that vLLM can be started with for adapters of that rank."""
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise ConfigError(f"adapters of rank {rank} are too large for vLLM, which takes {RANKS[-1]}: use --kind ollama")


def _of_one(folder: Path, name: str | None, served: Served) -> str:
    if name not in served.names:
        known = ", ".join(sorted(served.names)[:8])
        raise ConfigError(f"--adapter must be one of {known}, got {name!r}: choose one")
    return modelfile(name, read_prompt(folder, f"{ADAPTERS}/{name}"))


def modelfile(name: str, prompt: JsonObject) -> str:
    """The Modelfile of an adapter: base and adapter as GGUF beside it, and the prompt of training as its template."""
    titles, stop = prompt.get("titles"), prompt.get("stop")
    topic = str(titles[0]).strip() if isinstance(titles, list) and len(titles) == 1 else "{{ .System }}"
    text = filled(str(prompt["text"]), title=topic, question="{{ .Prompt }}")
    ends = stop.get("tokens") if isinstance(stop, dict) else None
    lines = [
        "FROM ./base.gguf",
        f"ADAPTER ./{name}.gguf",
        f'TEMPLATE """{text}{{{{ .Response }}}}"""',
        *(f"PARAMETER stop {json.dumps(one, ensure_ascii=False)}" for one in (ends if isinstance(ends, list) else [])),
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_predict {prompt.get('max_answer_tokens')}",
    ]
    return "\n".join(lines)
