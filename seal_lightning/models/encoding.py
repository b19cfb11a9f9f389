"""From texts to token ids, in one place: one beginning and one end of a sequence, and data that stays text.

What a tokenizer puts around a text is found out by asking it: some add a BOS, some an EOS too (`add_eos_token`), many
nothing. A prompt gets what belongs at the beginning and nothing at its end; a training sequence gets one EOS.

Data may mention control tokens, as a document about chat templates does. They are text there: `mark` puts `MARK`
before each of them in a prompt, so that `prompt` tells them from those that a chat template writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from seal_lightning.text.thoughts import HARMONY, is_channel, is_marker

MARK = "\ufdd0"  # a noncharacter of Unicode: no text has it


class TextEncoder:
    """A tokenizer as the package uses it.

    Args:
        tokenizer: Any of transformers; it is asked on first use.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    # -- what the tokenizer is like ----------------------------------------------------------------------------------

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        full = list(self.tokenizer("a")["input_ids"])
        bare = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        for at in range(len(full) - len(bare) + 1):
            if bare and full[at : at + len(bare)] == bare:
                return full[:at], full[at + len(bare) :]
        return [], []

    @property
    def opening(self) -> list[int]:
        """What a sequence begins with; empty for a tokenizer that puts nothing there."""
        return self._around[0]

    @property
    def closing(self) -> list[int]:
        """What the tokenizer itself puts after a text: nothing, or an EOS, which is not wanted after a prompt."""
        return self._around[1]

    @property
    def end(self) -> list[int]:
        """What a training sequence ends with: the EOS token, or without one what the tokenizer ends a text with."""
        token = self.tokenizer.eos_token_id
        return self.closing if token is None else [token]

    @cached_property
    def _added(self) -> dict[str, tuple[int, bool]]:
        """Id of every added token, and whether it is a special one."""
        added = getattr(self.tokenizer, "added_tokens_decoder", None) or {}
        return {token.content: (number, bool(token.special)) for number, token in added.items()}

    @cached_property
    def control(self) -> dict[str, int]:
        """The control tokens: special ones, and others that the chat template writes (as Qwen's <tool_call>)."""
        template = getattr(self.tokenizer, "chat_template", None) or ""
        written = "\n".join(map(str, template.values())) if isinstance(template, dict) else str(template)
        return {
            content: number
            for content, (number, special) in self._added.items()
            if content.strip() and (special or (content in written and not (content[0] + content[-1]).isalnum()))
        }

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(_any_of(self.control) if self.control else "(?!)")

    @cached_property
    def _markers(self) -> dict[str, int]:
        """The special tokens between which a model's thoughts stand; decoding usually leaves them out."""
        found = {name: number for name, (number, special) in self._added.items() if special and is_marker(name)}
        if HARMONY in found:
            return found
        return {name: number for name, number in found.items() if not is_channel(name)}  # Phi has an <|end|>, too

    @property
    def keeps_markers(self) -> bool:
        """Whether thoughts can only be found in texts decoded with their special tokens."""
        return bool(self._markers)

    # -- text to ids -------------------------------------------------------------------------------------------------

    def mark(self, text: str) -> str:
        """A text from outside as a part of a formatted prompt."""
        return self._pattern.sub(f"{MARK}\\g<0>", text.replace(MARK, "\ufffd"))

    def data(self, text: str) -> list[int]:
        """Token ids of a text from outside, nothing added; control tokens in it are text."""
        return self._literal(text) if self._pattern.search(text) else self._ids(text)

    def prompt(self, text: str, *, opened: bool = False) -> list[int]:
        """Token ids of a formatted prompt, in which control tokens are meant where nothing marks them.

        Args:
            text: As `Policy.format` gives it.
            opened: The text itself says how a sequence begins, as one of a chat template does.
        """
        ids = [] if opened else list(self.opening)
        if MARK not in text:
            return [*ids, *self._ids(text)]
        pieces = re.split(f"{MARK}({self._pattern.pattern})", text)  # every second one is a marked token
        for number, piece in enumerate(pieces):
            if number % 2:
                ids += self._literal(piece, first=False)
            elif plain := piece.replace(MARK, ""):
                ids += self._ids(plain, first=number == 0)
        return ids

    def sequence(self, text: str, *, prompt: str = "", ended: bool = True) -> tuple[list[int], int]:
        """A training sequence, and how many of its tokens are the prompt: all of it is from outside.

        Args:
            text: Text that is learnt.
            prompt: Text before it.
            ended: Whether it gets an EOS.
        """
        start = [*self.opening, *self.data(prompt)] if prompt else []
        body = [*([] if prompt else self.opening), *self.data(text)]
        return [*start, *body, *(self.end if ended else [])], len(start)

    def _literal(self, text: str, *, first: bool = True) -> list[int]:
        """Token ids of a text with control tokens in it, none of which is one."""
        ids = self._ids(text, first=first, split=True)
        if not set(self.control.values()).intersection(ids):
            return ids
        # only special tokens are split by the tokenizer: break the others after their first character
        broken = self._pattern.sub(lambda match: f"{match[0][0]}{MARK}{match[0][1:]}", text.replace(MARK, "\ufffd"))
        ids = []
        for number, piece in enumerate(broken.split(MARK)):
            ids += self._ids(piece, first=first and number == 0, split=True) if piece else []
        return ids

    def _ids(self, text: str, *, first: bool = True, split: bool = False) -> list[int]:
        """Token ids of a piece; one that is not the `first` gets no space before it, as SentencePiece adds one."""
        options = {"split_special_tokens": True} if split else {}

        def encoded(piece: str) -> list[int]:
            return list(self.tokenizer(piece, add_special_tokens=False, **options)["input_ids"])

        if not first and self._adds_space:
            ids = encoded(f"\n{text}")
            if ids[: len(self._newline)] == self._newline:
                return ids[len(self._newline) :]
        return encoded(text)

    @cached_property
    def _newline(self) -> list[int]:
        return self._ids("\n")

    @cached_property
    def _adds_space(self) -> bool:
        """Whether a text begins otherwise than the same text goes on after a line break."""
        after = self._ids("\na")
        return after[: len(self._newline)] == self._newline and after[len(self._newline) :] != self._ids("a")

    # -- ids to text -------------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """What a model wrote, without special tokens but for those that thoughts are found by."""
        channel = self._markers.get(HARMONY)
        if not self._markers or (channel is not None and channel not in ids):
            return self.tokenizer.decode(ids, skip_special_tokens=True)
        kept = [token for token in ids if token not in self._left_out]
        return self.tokenizer.decode(kept, skip_special_tokens=False)

    def without_special(self, text: str) -> str:
        """The same for a text that a server has decoded with its special tokens."""
        return self._pattern.sub(lambda match: "" if self.control[match[0]] in self._left_out else match[0], text)

    @cached_property
    def _left_out(self) -> set[int]:
        marking = set(self._markers.values())
        return {number for number, special in self._added.values() if special} - marking


def _any_of(words: Iterable[str]) -> str:
    """A regular expression for the longest of some words, by their letters: there can be thousands of them."""
    trie: dict[str, Any] = {}
    for word in words:
        node = trie
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}

    def written(node: dict[str, Any]) -> str:
        branches = [re.escape(letter) + written(rest) for letter, rest in node.items() if letter]
        if "" in node:
            return f"(?:{'|'.join(branches)})?" if branches else ""
        return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

    return written(trie)
