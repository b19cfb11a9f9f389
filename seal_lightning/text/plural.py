"""A number with its noun, for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """The number and the noun in the right form.

    >>> counted(1, "edit"), counted(1200, "batch"), counted(2, "query")
    ('1 edit', '1,200 batches', '2 queries')
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}{'es' if noun.endswith(('ch', 's', 'x')) else 's'}"
