"""Which layers of a model are trained: how a self-edit or a setting names them, and what that comes to on a model.

A choice is a list of terms, in any order. Terms of depth are numbers (`3`, counted from 0; `-1` is the last), spans
(`0-3`) and parts (`first half`, `last third`, `first 2`); terms of kind are `attention`, `mlp` and names as the model
has them (`q_proj`, `self_attn`). A layer is trained if it fits one of the depths and one of the kinds; where a choice
has no depth, or no kind, every layer fits. Models that write such terms as they like ("layers 0 to 3, attention only")
are understood, and `q` is taken for `q_proj`. The idea is SCoL's (arXiv 2605.07076); the grammar is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Sort = Literal["depth", "kinds"]
ALL = "all"
_LONGEST = 500  # characters that are read
_KINDS = {
    "attention": "attention", "attn": "attention",
    "mlp": "mlp", "mlps": "mlp", "ffn": "mlp",
}  # fmt: skip
_FRACTIONS = {"half": 2, "third": 3, "quarter": 4}
_SIDES = {
    "first": "first", "early": "first", "lower": "first", "bottom": "first", "middle": "middle",
    "last": "last", "late": "last", "upper": "last", "top": "last", "final": "last",
}  # fmt: skip
_FILLERS = set(
    "layer layers block blocks module modules projection projections weights transformer decoder model and or of in "
    "the from only at with for to by on a an train update every each none null true false".split()
)
_COUNTS = {word: str(number) for number, word in enumerate("one two three four five six seven eight".split(), 1)}
_SAME = (  # other ways to write a term
    (re.compile(r"feed[\s_-]?forward"), "mlp"),
    (re.compile(r"self[\s-]att(?:n|ention)|self_attention"), "attention"),
    (re.compile(r"\b(?:layers?|blocks?|l|h)_?(?=\d)"), ""),
    (re.compile(rf"\b(?:{'|'.join(_COUNTS)})\b"), lambda found: _COUNTS[found.group()]),
)
_TERM = re.compile(
    r"(?P<span>\d{1,4}\s{0,3}(?:-|–|\.\.\.?|:|\bto\b|\bthrough\b)\s{0,3}\d{1,4})\b"
    r"|(?P<number>(?<![\w-])-?\d{1,4}\b)"
    r"|(?P<part>\b(?:second[\s_-]half"
    r"|(?:first|early|lower|bottom|middle|last|late|upper|top|final)(?:[\s_-](?:half|third|quarter|\d{1,4}))?)\b)"
    r"|(?P<word>(?<![\w.])[a-z_][\w.]{0,60})",
)
_PARTS = {  # of a layer's name, by kind
    "attention": re.compile(r"attn|attention|^[qkvo]_proj$"),
    "mlp": re.compile(r"mlp|ffn|feed_forward|expert|moe|^fc\d$|^(?:up|down|gate)_proj$"),
}


def read_choice(value: object, *, sorts: Sequence[Sort] = ("depth", "kinds")) -> str | None:
    """A choice of layers in one fixed form, terms of the given sorts only; None if none can be read.

    >>> read_choice("Layers 2 to 4, attention only"), read_choice([5, 0, 1]), read_choice("the first half")
    ('2-4, attention', '0, 1, 5', 'first half')
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | list | tuple):
        return None
    if isinstance(value, int) and abs(value) > 9999:  # more digits than a term has, or than Python writes
        return None
    if isinstance(value, float):
        return read_choice(int(value), sorts=sorts) if value.is_integer() else None
    depth: set[str] = set()
    kinds: set[str] = set()
    text = str(value)[:_LONGEST].lower()
    for pattern, same in _SAME:
        text = pattern.sub(same, text)
    for found in _TERM.finditer(text):
        sort, said = found.lastgroup, found.group()
        if sort == "span":
            low, high = sorted(int(number) for number in re.findall(r"\d+", said))
            depth.add(str(low) if low == high else f"{low}-{high}")
        elif sort == "number":
            depth.add(str(int(said)))
        elif sort == "part":
            depth.add(_part(said))
        elif said == ALL:
            depth.add(ALL)
        elif (word := said.strip("._")) and word not in _FILLERS:
            kinds.add(_KINDS.get(word, said.strip(".")))
    terms = [*(sorted(depth, key=_place) if "depth" in sorts else ()), *(sorted(kinds) if "kinds" in sorts else ())]
    return ", ".join(terms) or None


def _part(said: str) -> str:
    """`first half`, `middle third` or `last 2`; a side alone is a third, but first, last and top are one layer."""
    side, _, size = re.sub(r"[\s_-]", " ", said).partition(" ")
    if side == "second":
        return "last half"
    name = _SIDES[side]
    if name == "middle":
        return "middle third" if size in _FRACTIONS or not size else f"middle {int(size)}"
    if not size:
        return f"{name} {'1' if side in ('first', 'last', 'final', 'top', 'bottom') else 'third'}"
    return f"{name} {size if size in _FRACTIONS else int(size)}"


def _place(term: str) -> tuple[bool, int, str]:
    """Numbers and spans in their order, then words."""
    digits = re.match(r"-?\d+", term)
    return digits is None, int(digits.group()) if digits else 0, term


def chosen_layers(choice: str, names: Sequence[str]) -> frozenset[str]:
    """Those of a model's adapted layers that a choice names.

    Args:
        choice: Anything that `read_choice` reads.
        names: Names of the layers, such as model.layers.3.self_attn.q_proj; the first number in a name is its depth.
            Halves and thirds are of the depths that occur here.

    Returns:
        Their names. What the model does not have is passed over, so none may be left.
    """
    depths = {name: depth_of(name) for name in names}
    present = sorted({depth for depth in depths.values() if depth is not None})
    terms = (read_choice(choice) or "nothing").split(", ")
    wanted = [term for term in terms if _is_depth(term)]
    kinds = [term for term in terms if not _is_depth(term)]
    inside = {depth for term in wanted for depth in _depths(term, present)}
    return frozenset(
        name
        for name, depth in depths.items()
        if (not wanted or ALL in wanted or depth in inside)
        and (not kinds or any(_is_of_kind(name, kind) for kind in kinds))
    )


def depth_of(name: str) -> int | None:
    """The number of the block that a layer is in; None outside of all blocks."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _is_depth(term: str) -> bool:
    return term == ALL or " " in term or re.fullmatch(r"-?\d+(-\d+)?", term) is not None


def _depths(term: str, present: Sequence[int]) -> Sequence[int]:
    """Those of the depths that one term names."""
    if term == ALL or not present:
        return present
    side, _, size = term.partition(" ")
    if size:
        count = -(-len(present) // _FRACTIONS[size]) if size in _FRACTIONS else min(int(size), len(present))
        start = {"first": 0, "middle": (len(present) - count) // 2, "last": len(present) - count}[side]
        return present[start : start + count]
    low, _, high = term.lstrip("-").partition("-")
    if term.startswith("-"):
        return [depth for depth in present if depth == present[-1] + 1 - int(low)]
    return [depth for depth in present if int(low) <= depth <= int(high or low)]


def _is_of_kind(name: str, kind: str) -> bool:
    name = name.lower()
    if kind in _PARTS:
        return any(_PARTS[kind].search(part) for part in name.split("."))
    return any(f".{known}." in f".{name}." for known in (kind, f"{kind}_proj"))
