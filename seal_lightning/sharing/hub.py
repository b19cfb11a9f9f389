"""Uploads of what `seal fit` and `seal adapt` made to the Hugging Face hub: checked before any work, done after it.

The token comes from the environment (`HF_TOKEN`) or a login (`hf auth login`) and is never written down. A failed
upload loses nothing: the folder is whole, and the message has the command that uploads it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token, is_offline_mode
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of the client that this version uses
)
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, validate_repo_id
from jsonargparse import ArgumentParser, Namespace

from seal_lightning import __version__
from seal_lightning.errors import ConfigError, HubError
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.contained import leads_out
from seal_lightning.models.origins import CARD, hub_name
from seal_lightning.sharing.card import index_card
from seal_lightning.sharing.usage import at
from seal_lightning.text.escaping import shortened, single_line
from seal_lightning.text.redaction import HIDDEN, masked

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
# The files of an export; anything else in its folder stays here.
OURS = (CARD, CONFIG, "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
OURS += ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt")
OURS += ("spiece.model", "chat_template*", "additional_chat_templates", "selection.json")
NO_ACCESS = (401, 403)
FAILURES = (OSError, ValueError, RuntimeError, LookupError, HTTPError)
LONGEST = 96  # characters of a repository's name with its account


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository of models.

    Attributes:
        repo: Its name, with the account where that is known.
        private: Whether a new repository is private.
        revision: The branch; None for the main one.
    """

    repo: str
    private: bool = True
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A folder to upload.

    Attributes:
        folder: The folder, with weights and a card.
        inside: Its place in the repository; empty for the root.
        suffix: Suffix of the repository's name, such as `-merged`.
    """

    folder: Path
    inside: str = ""
    suffix: str = ""


# -- options -----------------------------------------------------------------------------------------------------------


def add_hub(parser: ArgumentParser) -> None:
    """Add the options for uploading a result, named as in transformers and TRL."""
    parser.add_argument(
        "--push_to_hub",
        type=bool | str,
        default=False,
        nargs="?",
        const=True,
        help="Upload the finished result to the Hugging Face hub: true, or the repository's name, such as me/towns. "
        "Needs a token: HF_TOKEN or `hf auth login`.",
    )
    parser.add_argument(
        "--hub_model_id",
        type=str | None,
        help="Name of the repository; null takes that of the output folder, under the token's account.",
    )
    parser.add_argument("--hub_private_repo", type=bool, default=True, help="Whether a new repository is private.")
    parser.add_argument("--hub_revision", type=str | None, help="Branch to upload to; null for the main one.")


def destination_of(options: Namespace, *, folder: str | Path, ask: bool = True) -> Destination | None:
    """Where the options want a result uploaded; None if they do not.

    Args:
        options: The options of `add_hub`.
        folder: The output folder, which names the repository if no option does.
        ask: Whether this process asks the hub for the token's account.

    Raises:
        ConfigError: Nothing can be uploaded there: the name is wrong, the token is missing, or the hub is switched off.
    """
    wanted, name = options.push_to_hub, options.hub_model_id
    if not wanted:
        for option, value in (("hub_model_id", name), ("hub_revision", options.hub_revision)):
            if value is not None:
                raise ConfigError(
                    f"{option} is set but push_to_hub is not: add --push_to_hub true, or leave {option} out"
                )
        return None
    if isinstance(wanted, str) and name not in (None, wanted):
        raise ConfigError(f"push_to_hub names {wanted}, but hub_model_id names {name}: give only one")
    words = re.findall("[A-Za-z0-9]+", Path(folder).expanduser().resolve().name)
    repo = wanted if isinstance(wanted, str) else name or "-".join(words)[:LONGEST] or "seal"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            f"push_to_hub: expected a repository's name such as me/towns, got {single_line(repo)!r:.80}: letters, "
            "digits and - _ . in it, with the account before a slash"
        ) from error
    if is_offline_mode():
        raise ConfigError(
            "push_to_hub: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) keeps this process off the hub: unset it, or leave "
            "push_to_hub out and upload later"
        )
    if get_token() is None:
        raise ConfigError(
            "push_to_hub: expected a token of the Hugging Face hub, got none: set HF_TOKEN, or run `hf auth login`"
        )
    account = _account() if ask else None
    if "/" not in repo and account:
        repo = f"{account}/{repo}"
    return Destination(repo, options.hub_private_repo, options.hub_revision)


def _account() -> str | None:
    """The account of the token; None if the hub does not answer now, as it may once the work is done.

    Raises:
        ConfigError: The hub does not accept the token, or the token may only read.
    """
    try:
        known = _api().whoami()
    except FAILURES as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in NO_ACCESS:
            raise ConfigError(
                f"push_to_hub: the hub does not accept the token ({status}): set HF_TOKEN to a valid one, or run `hf "
                "auth login --force`"
            ) from error
        log.warning(
            "push_to_hub: the hub does not answer (%s); it will be asked again when the work is done", _why(error)
        )
        return None
    if (known.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise ConfigError("push_to_hub: expected a token that may write, got one that may only read: create another")
    return known.get("name")


def _api() -> HfApi:
    url = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")  # the library reads it only on import
    return HfApi(endpoint=url, token=get_token(), library_name="seal-lightning", library_version=__version__)


# -- upload ------------------------------------------------------------------------------------------------------------


def upload(destination: Destination, exports: Sequence[Export]) -> list[str]:
    """Upload folders, each repository in one commit; returns the addresses.

    Args:
        destination: The repository.
        exports: The folders; several with the same suffix become folders of one repository.

    Raises:
        HubError: The upload failed; the folders are untouched, and the message says how to repeat it.
    """
    done = []
    for suffix in dict.fromkeys(export.suffix for export in exports):
        together = [export for export in exports if export.suffix == suffix]
        repo = f"{destination.repo}{suffix}"
        try:
            with ExitStack() as held:
                if not sys.stderr.isatty():
                    disable_progress_bars()
                    held.callback(enable_progress_bars)
                done.append(_commit(repo, destination, together))
        except FAILURES as error:
            where = f" --revision {shlex.quote(destination.revision)}" if destination.revision else ""
            again = " && ".join(
                f"hf upload {repo} {shlex.quote(str(export.folder))} {export.inside or '.'}{where}"
                for export in together
            )
            raise HubError(
                f"upload to {repo} failed ({_why(error)}); nothing is lost, {together[0].folder} is whole: add "
                f"--push_to_hub to the command that resumes, or repeat with {again}"
            ) from error
    return done


def _commit(repo: str, destination: Destination, exports: Sequence[Export]) -> str:
    api = _api()
    made = api.create_repo(repo, private=destination.private, exist_ok=True)
    if destination.revision:
        api.create_branch(made.repo_id, branch=destination.revision, exist_ok=True)
    operations = [file for export in exports for file in _files(export, made.repo_id)]
    if exports[0].inside:
        text = index_card(made.repo_id, [(export.inside, export.folder) for export in exports])
        operations.append(CommitOperationAdd(CARD, text.encode()))
    api.create_commit(
        made.repo_id,
        operations,
        commit_message=f"Upload with seal-lightning {__version__}",
        revision=destination.revision,
    )
    return str(made)


def _files(export: Export, repo: str) -> Iterator[CommitOperationAdd]:
    """The files of an export, with cards and configurations freed from paths of this machine."""
    left = []
    for path in sorted(export.folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not any(fnmatch(path.name, pattern) for pattern in OURS) or leads_out(path, export.folder):
            left.append(path.name)
            continue
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            name = "/".join(filter(None, (export.inside, file.relative_to(export.folder).as_posix())))
            content: bytes | str = str(file)
            if file.name == CARD:
                content = at(file.read_text(encoding="utf-8"), repo, inside=export.inside).encode()
            elif file.name == CONFIG:
                content = _without_paths(file)
            yield CommitOperationAdd(name, content)
    if left:
        log.info("%s: not uploaded, because they do not belong to the weights: %s", export.folder, ", ".join(left))


def _without_paths(path: Path) -> bytes:
    """An adapter's configuration with a name for its base that other machines understand."""
    config = parse_json(path.read_bytes())
    base = config.get("base_model_name_or_path")
    if isinstance(base, str) and (Path(base).expanduser().exists() or base.startswith(("/", "~", "."))):
        known = hub_name(base)
        config["base_model_name_or_path"] = known[0] if known else Path(base).expanduser().resolve().name
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _why(error: BaseException) -> str:
    """What went wrong, in one line, without the token."""
    text = str(error.__cause__ or error) if isinstance(error, RuntimeError) else str(error)
    text = " ".join(text.split()) or type(error).__name__
    if token := get_token():
        text = text.replace(token, HIDDEN)
    return shortened(masked(single_line(text)), 200)
