"""Retention matrices as heat maps in one SVG file: a panel each, accuracy as depth of colour and in percent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import escape

from seal_lightning.results.averages import Bounds
from seal_lightning.results.retention import RetentionMatrix, heads
from seal_lightning.text.escaping import visible

CELL, ROW, LEFT, TOP, GAP = 46, 28, 66, 52, 34  # pixels
ACROSS = 2  # panels beside each other
LIGHT, DARK = (247, 251, 255), (8, 64, 129)  # accuracy 0 and 1


def heat_map(matrices: Sequence[RetentionMatrix]) -> str:
    """The SVG of at least one matrix. Cells that were not asked stay white; the first row is the base."""
    across = min(ACROSS, len(matrices))
    panels = [matrices[start : start + across] for start in range(0, len(matrices), across)]
    width = max(sum(_width(matrix) + GAP for matrix in row) for row in panels)
    parts, y = [], 0
    for row in panels:
        x = 0
        for matrix in row:
            parts.append(f'<g transform="translate({x},{y})">{"".join(_panel(matrix))}</g>')
            x += _width(matrix) + GAP
        y += max(TOP + ROW * len(matrix.mean) + GAP for matrix in row)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">'
        f'<rect width="{width}" height="{y}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _width(matrix: RetentionMatrix) -> int:
    extra = CELL + CELL // 2 if matrix.unrelated else 0
    return LEFT + CELL * max(map(len, matrix.mean)) + extra


def _panel(matrix: RetentionMatrix) -> Iterator[str]:
    width = max(map(len, matrix.mean))
    yield f'<text x="{LEFT}" y="20" font-size="14" font-weight="600">{escape(visible(matrix.name))}</text>'
    for place in range(width):
        yield _text(LEFT + CELL * place, 36, CELL, str(place + 1))
    beside = LEFT + CELL * width + CELL // 2
    if matrix.unrelated:
        yield _text(beside, 36, CELL, "unrelated")
    for number, (label, row) in enumerate(zip(heads(matrix), matrix.mean, strict=True)):
        y = TOP + ROW * number - 8
        bounds = matrix.intervals[number] if matrix.intervals else ((None, None),) * len(row)
        yield f'<text x="{LEFT - 8}" y="{y + 19}" text-anchor="end">{label}</text>'
        for place, value in enumerate(row):
            if value is not None:
                yield _cell(LEFT + CELL * place, y, value, bounds[place], learnt=number == place + 1)
        if matrix.unrelated:
            yield _cell(beside, y, matrix.unrelated[number])


def _cell(x: int, y: int, value: float, bounds: Bounds = (None, None), *, learnt: bool = False) -> str:
    """An accuracy, with its interval for who holds the pointer over it; underlined where it was learnt just before."""
    share = min(1.0, max(0.0, value))
    colour = "#" + "".join(f"{round(low + share * (high - low)):02x}" for low, high in zip(LIGHT, DARK, strict=True))
    ink = "#fff" if share > 0.65 else "#222"
    low, high = bounds
    title = "" if low is None or high is None else f"<title>{100 * low:.1f} – {100 * high:.1f}</title>"
    line = ' text-decoration="underline"' if learnt else ""
    return (
        f'<g>{title}<rect x="{x}" y="{y}" width="{CELL - 2}" height="{ROW - 2}" fill="{colour}"/>'
        f'<text x="{x + CELL // 2 - 1}" y="{y + 18}" text-anchor="middle" fill="{ink}"{line}>{100 * value:.1f}</text>'
        "</g>"
    )


def _text(x: int, y: int, width: int, text: str) -> str:
    return f'<text x="{x + width // 2 - 1}" y="{y}" text-anchor="middle" fill="#666">{escape(text)}</text>'
