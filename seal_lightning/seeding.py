"""Seeds by name: every random choice of a run comes from a digest of its purpose.

The parts are facts such as (run seed, round, context id, edit index, repeat), never the clock, the rank, the order of
work or `hash()`. So one process, several ranks and a resumed run draw the same numbers.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that depends on every part and its position."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
