"""The lab model's tokenizer: every word of the lab's world is one token, everything else falls back to bytes.

A unigram model with a fixed vocabulary: nothing is trained, and no piece is left over from merges. Any text can be
encoded and comes back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_WORD, _BYTE = -1.0, -100.0  # scores: one word always beats any number of bytes that spell it
END, _PADDING = "<eos>", "<pad>"
_PIECE = re.compile(r" ?\w+")


def build_tokenizer(texts: Iterable[str], *, pieces: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are those of `texts`, with the space before them where there is one.

    Args:
        texts: Where the words are found.
        pieces: What else is one token, across words and lines.
    """
    found = {piece for text in texts for piece in _PIECE.findall(text)}
    words = sorted({piece.replace(" ", "Ġ").replace("\n", "Ċ") for piece in (*found, *pieces)})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [(token, 0.0) for token in (END, _PADDING)]
    vocabulary += [(letter, _BYTE) for letter in letters]
    vocabulary += [(word, _WORD) for word in words if word not in letters]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=None, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pieces)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=_PADDING,
        clean_up_tokenization_spaces=False,
    )
