"""Writes seal_lightning/commands/help.json, from which `seal COMMAND --help` is printed at once.

    python docs/help_texts.py            write it anew
    python docs/help_texts.py --check    say whether it is out of date, and write nothing

Run it in a fresh process, which has imported only the commands: anything else imported would be listed too.
"""

import argparse
import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

from jsonargparse import ArgumentParser

from seal_lightning.cli import main
from seal_lightning.commands.names import COMMANDS, HELP, versions
from seal_lightning.options.parser import without_backspaces

PATH = Path(__file__).resolve().parent.parent / "seal_lightning" / "commands" / HELP


def parts(command: str) -> dict[str, Any]:
    """The parts of a command's help, and nothing that depends on a terminal."""
    found: list[dict[str, Any]] = []

    def taken(parser: ArgumentParser) -> str:
        formatter = parser._get_formatter()
        groups = [
            [group.title, group.description or "", [*chain(*(row(formatter, one) for one in group._group_actions))]]
            for group in parser._action_groups
        ]
        found.append({"usage": parser.usage, "about": parser.description, "groups": groups})
        return ""

    def print_help(parser: Any, file: Any = None) -> None:
        with mock.patch.object(argparse.ArgumentParser, "format_help", taken):
            parser.format_help()

    asked = mock.patch("seal_lightning.cli.help_text", lambda command: None)  # the parser itself, and not this file
    with asked, mock.patch.object(argparse.ArgumentParser, "print_help", print_help):
        main([command, "--help"])
    (text,) = found
    text["groups"] = [group for group in text["groups"] if group[2]]
    return text


def row(formatter: argparse.HelpFormatter, action: argparse.Action) -> list[list[str]]:
    """The names of an option and its description; nothing for a hidden one."""
    if action.help == argparse.SUPPRESS:
        return []
    words = formatter._expand_help(action)
    return [[without_backspaces(formatter._format_action_invocation(action)), words]]


def written() -> str:
    commands = {command: parts(command) for command, row in COMMANDS.items() if not row.is_light}
    return json.dumps({"versions": versions(), "commands": commands}, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    text = written()
    if sys.argv[1:] != ["--check"]:
        PATH.write_text(text, encoding="utf-8")
    elif text != PATH.read_text(encoding="utf-8"):
        sys.exit("seal_lightning/commands/help.json is out of date: run python docs/help_texts.py")
