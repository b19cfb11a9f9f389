"""The kinds of self-edit for knowledge: what the policy is asked to write and how it is read.

The wording is a first-class setting (in the paper, section 4.2 and its appendix, an untrained "rewrite" beats trained
"implications"), so a kind can also be written in YAML. The wording here is the project's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from seal_lightning.errors import ConfigError
from seal_lightning.types import Context, Prompt

Parser = Literal["lines", "blocks", "questions", "whole"]

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_FIELDS = ("title", "passage")


@dataclass(frozen=True, slots=True)
class EditKind:
    """One way to ask for a self-edit and to read it.

    Args:
        instruction: Request to the policy; {title} and {passage} stand for those of the context, other braces are kept.
        lead: Words after which a base model starts to write, on a line of their own; an instruct model never sees them.
        parser: How the edit becomes training sequences: `lines` (each line one), `blocks` (split at lines of `---`),
            `questions` (each question with its answer one) or `whole` (the edit is one).
        system: System message for an instruct model; a base model never sees it.
    """

    instruction: str
    lead: str = ""
    parser: Parser = "lines"
    system: str = ""

    def __post_init__(self) -> None:
        names = set(_PLACEHOLDER.findall(self.instruction))
        if "passage" not in names:
            raise ConfigError("instruction must contain {passage}, got none: put it where the passage is to be read")
        if unknown := sorted(names.difference(_FIELDS)):
            raise ConfigError(f"instruction must use only {{title}} and {{passage}}, got {{{unknown[0]}}}: rename it")
        if self.parser not in get_args(Parser):
            allowed = ", ".join(get_args(Parser))
            raise ConfigError(f"parser must be one of {allowed}, got {self.parser!r}: choose one")

    def prompt(self, context: Context, *, request: str = "") -> Prompt:
        """The prompt for a context; `request` is one more paragraph after the instruction."""
        fields = {"title": context.title.strip(), "passage": context.passage.strip()}
        user = _PLACEHOLDER.sub(lambda name: fields[name[1]], self.instruction.strip())
        user = f"{user}\n\n{request}" if request else user
        lead = f"\n\n{self.lead.strip()}\n" if self.lead.strip() else "\n\n"
        return Prompt(user=user, lead=lead, system=self.system.strip())


def _kind(request: str, *, lead: str, parser: Parser = "lines") -> EditKind:
    return EditKind(instruction=request + "\n\nTitle: {title}\nPassage: {passage}", lead=lead, parser=parser)


EDIT_KINDS: Mapping[str, EditKind] = MappingProxyType(
    {
        "implications": _kind(
            "Study the passage below. Then write down what follows from it: statements that it makes, and further ones "
            "that can be concluded from them. Put each statement on a line of its own and make it understandable "
            "without the passage.",
            lead="What follows from the passage:",
        ),
        "implications-long": _kind(
            "Study the passage below. Then write down as much as you can of what follows from it: every statement that "
            "it makes, and many further ones that can be concluded from them. The list should be long. Put each "
            "statement on a line of its own and make it understandable without the passage.",
            lead="Everything that follows from the passage:",
        ),
        "implications-very-long": _kind(
            "Study the passage below. Then write down, without leaving anything out, what follows from it: every "
            "statement that it makes, each one again seen from another side, and all further ones that can be "
            "concluded by combining them. The list should be several times as long as the passage. Put each statement "
            "on a line of its own and make it understandable without the passage.",
            lead="An exhaustive list of what follows from the passage:",
        ),
        "rewrite": _kind(
            "Study the passage below. Then retell it several times, each time in other words and another order, with "
            "every name, number and date kept. Put each version on a line of its own, without headings.",
            lead="The passage in other words:",
        ),
        "self-qa": _kind(
            "Study the passage below. Then write questions that someone could be asked about it, each with its short "
            "answer. Name what a question is about, so that it is understandable without the passage. Write each pair "
            "as a line that starts with Question: and a line that starts with Answer:.",
            lead="Questions and answers:",
            parser="questions",
        ),
        "facts": _kind(
            "Study the passage below. Then take it apart into its single facts. Put each fact on a line of its own, as "
            "one short full sentence with names in place of pronouns, and add nothing that the passage does not say.",
            lead="The facts one by one:",
        ),
    }
)


def resolve_kind(edit: str | EditKind) -> EditKind:
    """The built-in kind of that name; an `EditKind` is given back as it is."""
    if isinstance(edit, EditKind):
        return edit
    if not isinstance(edit, str) or edit not in EDIT_KINDS:
        allowed = ", ".join(EDIT_KINDS)
        raise ConfigError(f"edit must be one of {allowed} or an EditKind, got {edit!r}: use a name or an instruction")
    return EDIT_KINDS[edit]
