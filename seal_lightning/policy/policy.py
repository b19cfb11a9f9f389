"""The policy as the E-step sees it: a plain transformers model that writes edits and is adapted, and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from seal_lightning.models.chat import ChatTemplate, ends_turns, read_template
from seal_lightning.models.coverage import window
from seal_lightning.models.encoding import TextEncoder
from seal_lightning.models.lora import LoRA
from seal_lightning.types import Prompt


@dataclass(slots=True)
class Policy:
    """A plain causal language model with its tokenizer.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        chat: Whether prompts go through the chat template: the template as `load_model` has tried it out, or True for
            the tokenizer's with its defaults.
        learned: Returns what M-steps have added to the base, for a server that holds the base; None for nothing.
        encoder: Turns texts into token ids, and back.
        template: The chat template; None if prompts are plain.
    """

    model: Any
    tokenizer: Any
    chat: bool | ChatTemplate
    learned: Callable[[], LoRA | None] = lambda: None
    encoder: TextEncoder = field(init=False, repr=False)
    template: ChatTemplate | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.encoder = TextEncoder(self.tokenizer)
        self.template = read_template(self.tokenizer) if self.chat is True else self.chat or None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def window(self) -> int:
        """The most tokens the model can attend to (a large number if its configuration sets no limit)."""
        return window(self.model)

    @property
    def chat_stamp(self) -> bool | str:
        """Whether and how prompts go through the chat template, for a journal's stamp."""
        return self.template.stamp if self.template else False

    def format(self, prompt: Prompt) -> str:
        """The text the model reads: the chat template, or for base models plain text that ends in the lead.

        Control tokens that the prompt mentions are marked (`encoding.MARK`): to `encode` they are text.
        """
        mark = self.encoder.mark
        marked = replace(prompt, user=mark(prompt.user), lead=mark(prompt.lead), system=mark(prompt.system))
        if self.template and not prompt.plain:
            return self.template.render(marked)
        text = f"{marked.system}\n\n{marked.user}{marked.lead}" if marked.system else marked.user + marked.lead
        # `encode` leaves the special tokens that a text begins with to the chat template
        return self.tokenizer.decode(self.encoder.opening) + text if self.template else text

    def encode(self, text: str) -> list[int]:
        """Token ids of a formatted prompt (a chat template writes its special tokens itself)."""
        return self.encoder.prompt(text, opened=self.template is not None)

    def encode_reply(self, text: str) -> list[int]:
        """Token ids of what the model should answer a prompt with, up to the end of its turn."""
        end = self.encoder.end if self.template is None or self.template.end is None else [self.template.end]
        return [*self.reply_opening, *self.encoder.data(text), *end]

    @property
    def reply_opening(self) -> list[int]:
        """What stands between a prompt and the reply itself: the end of a thought that the prompt opens, a channel."""
        return self.encoder.prompt(self.template.reply, opened=True) if self.template else []

    def decode(self, ids: Sequence[int], *, prompt: Sequence[int]) -> str:
        """What the model has written after a prompt, with the thoughts that it has written or gone on with."""
        opened = self.opened(self.tokenizer.decode(prompt[-40:])) if self.template and self.template.opens else ""
        return opened + self.encoder.decode(ids)

    def opened(self, prompt: str) -> str:
        """How a formatted prompt opens a thought for the model to go on with; empty if it does not."""
        opens = self.template.opens if self.template else ""
        return opens if opens and prompt.endswith(opens) else ""

    @property
    def ends_turns(self) -> bool:
        """Whether the model stops of its own where the chat template ends a turn."""
        return self.template is None or ends_turns(self.template, self.model)

    def count(self, text: str) -> int:
        """Tokens of a text that the policy did not write itself, without special ones."""
        return len(self.encoder.data(text))
