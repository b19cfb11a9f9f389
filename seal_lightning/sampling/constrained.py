"""Sampling under a JSON schema: only tokens that can lead to a text of the schema are chosen.

The masks are llguidance's (the extra `constrained`). Each row has a matcher of its own, so what it writes does not
depend on the batch. Texts are compact, without spaces between the parts of the JSON; they end where the object is
complete, and only a limit on tokens can end them earlier. A schema should give its numbers `minimum` and `maximum`,
which are then written without an exponent (or 1e-4 may become a 1), and `multipleOf`, or digits may go on without end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from seal_lightning.errors import ConfigError
from seal_lightning.files.extras import install
from seal_lightning.models.transfer import sent
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import Choose, stop_tokens
from seal_lightning.text.redaction import quoted

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerFast


def load_llguidance() -> ModuleType:
    """The library. Raises `ConfigError` where it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(f"sampler.constrained needs llguidance: {install('constrained')}, or leave it off") from error
    return llguidance


class SchemaMasks:
    """What a policy's tokens may write under JSON schemas; made once for many rows, since it reads the vocabulary.

    Args:
        policy: A policy with a fast tokenizer.

    Raises:
        ConfigError: llguidance is not installed or cannot read the tokenizer, or nothing ends a text.
    """

    def __init__(self, policy: Policy) -> None:
        self._matcher = load_llguidance().LLMatcher
        self._stops = [token for token in stop_tokens(policy) if token < len(policy.tokenizer)]
        self._tokenizer = _read_tokenizer(policy.tokenizer, self._stops)

    def keep_to(self, schemas: Sequence[Mapping[str, object]], choose: Choose) -> Choose:
        """`choose` with row r held to schema r, from the start of what it writes.

        Raises:
            ConfigError: llguidance cannot keep to a schema.
        """
        compact = {"whitespace_flexible": False}
        texts = [json.dumps(dict(schema)) for schema in schemas]
        grammars = [self._matcher.grammar_from_json_schema(text, overrides=compact) for text in texts]
        matchers = [_check(self._matcher(self._tokenizer, grammar, log_level=0)) for grammar in grammars]

        matched = [0] * len(matchers)  # tokens

        def chosen(logits: torch.Tensor, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> torch.Tensor:
            for row in rows:  # nothing is new in one that has ended and stays in the batch for a while
                for token in texts[row][matched[row] :]:
                    matchers[row].consume_token(token)
                    _check(matchers[row])
                matched[row] = len(texts[row])
            forbidden = ~self._allowed([matchers[row] for row in rows], width=logits.shape[-1])
            return choose(logits.masked_fill(sent(forbidden, logits.device), -torch.inf), rows, texts)

        return chosen

    def _allowed(self, matchers: Sequence[LLMatcher], *, width: int) -> torch.Tensor:
        """Whether each row may go on with each token, (b, V); the model may have more logits than there are tokens."""
        allowed = torch.zeros(len(matchers), width, dtype=torch.bool)
        for row, matcher in zip(allowed, matchers, strict=True):
            mask = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)[:width] > 0
            row[: len(mask)] = mask
            row[self._stops] = mask[self._tokenizer.eos_token]  # it knows one of them
        return allowed


def _read_tokenizer(tokenizer: PreTrainedTokenizerFast, stops: Sequence[int]) -> LLTokenizer:
    from llguidance.hf import from_tokenizer

    if not stops:
        raise ConfigError("sampler.constrained needs a model or tokenizer with an end-of-sequence token, got none")
    try:
        return from_tokenizer(tokenizer, eos_token=stops[0])
    except ValueError as error:
        raise ConfigError(
            f"sampler.constrained: llguidance cannot read this tokenizer: {quoted(str(error))}"
        ) from error


def _check(matcher: LLMatcher) -> LLMatcher:
    if matcher.is_error():
        raise ConfigError(f"sampler.constrained: llguidance cannot keep to the schema: {quoted(matcher.get_error())}")
    return matcher
