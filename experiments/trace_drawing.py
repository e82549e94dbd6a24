"""The picture of a trace: as a grid of characters for a terminal, and as a drawing for a page."""

from html import escape
from itertools import pairwise

from experiments.pages.charts import Drawing
from experiments.pages.shapes import ROW, segment, text
from experiments.trace_result import TraceResult, bare

COLUMNS, CELL = 9, 10  # of the grid: positions, and characters of each
LEFT, WIDE, TALL = 84, 900, 46  # pixels: left of the first token, all tokens, between boundaries
LABELS = 14  # tokens that are named in the drawing


def grid(result: TraceResult) -> str:
    """Return boundaries (the last on top) by positions of interest; the path is in brackets.

    A cell is the share of the effect that the place restores alone; a point: exactly none.
    """
    columns = result.columns(COLUMNS)
    lines = []
    for boundary in reversed(range(len(result.shares))):
        cells = []
        for position in columns:
            share = result.share(boundary, position)
            cell = "." if share == 0 else f"{share:.0%}".replace("-0%", "0%")
            cells.append(f"[{cell}]" if result.path[boundary] == position else f"{cell} ")
        name = result.boundary(boundary)
        lines.append(f"{name:11}" + "".join(f"{cell:>{CELL}}" for cell in cells))
    names = [result.tokens[position].strip() or "_" for position in columns]
    lines.append(" " * 11 + "".join(f"{name[: CELL - 2]:>{CELL - 1}} " for name in names))
    lines.append(f"{'position':11}" + "".join(f"{position:>{CELL - 1}} " for position in columns))
    return "\n".join(lines)


def drawing(result: TraceResult) -> Drawing:
    """Draw tokens along x and layers along y; the darker a circle, the more the place restores."""
    count = result.target - result.first + 1
    step = WIDE / count
    boundaries = len(result.shares)
    top = ROW + 30

    def place(boundary: int, position: int) -> tuple[float, float]:
        x = LEFT + (position - result.first + 0.5) * step
        return x, top + (boundaries - 1 - boundary) * TALL

    bottom = place(0, result.first)[1]
    parts = _window(result, step, top - 16, bottom + 16)
    for boundary in range(boundaries):
        y = place(boundary, result.first)[1]
        parts.append(segment(LEFT, y, LEFT + WIDE, y, "grid"))
        parts.append(text(LEFT - 8, y + 4, result.boundary(boundary), "end soft"))
    for boundary, (start, end) in enumerate(pairwise(result.path)):
        parts.append(segment(*place(boundary, start), *place(boundary + 1, end), "curve s1"))
    for boundary in range(boundaries):
        for position in range(result.first, result.target + 1):
            parts += _circle(result, boundary, position, *place(boundary, position))
    parts += _labels(result, step, bottom)
    caption = (
        "A circle's size and shade: the share of the effect that this place restores alone. Lines: "
        "the strongest path. No circle: exactly nothing."
    )
    title = f"From {bare(result.tokens[result.source[-1]])!r} to {bare(result.answer)!r}"
    return Drawing(title, LEFT + WIDE + 16, int(bottom) + 96, parts, caption)


def _window(result: TraceResult, step: float, upper: float, lower: float) -> list[str]:
    """Shade the tokens that the last layer's query sees, between two heights."""
    window = result.windows[-1]
    if window is None:
        return []
    start = max(result.first, result.target - window + 1)
    x = LEFT + (start - result.first) * step
    words = f"what the last layer's query sees: {window} keys"
    return [
        f'<rect class="empty" x="{x:.1f}" y="{upper:.1f}" width="{LEFT + WIDE - x:.1f}" '
        f'height="{lower - upper:.1f}"/>',
        text(LEFT + WIDE, upper - 4, words, "end soft"),
    ]


def _circle(result: TraceResult, boundary: int, position: int, x: float, y: float) -> list[str]:
    share = result.share(boundary, position)
    if share == 0:
        return []
    strength = min(1.0, abs(share))
    words = f"{result.tokens[position].strip()} at {position}, {result.boundary(boundary)}"
    return [
        f'<circle class="f{0 if share > 0 else 4}" opacity="{0.25 + 0.75 * strength:.3f}" '
        f'cx="{x:.1f}" cy="{y:.1f}" r="{1.2 + 8 * strength**0.5:.1f}">'
        f"<title>{escape(words)}: {share:.1%}</title></circle>"
    ]


def _labels(result: TraceResult, step: float, bottom: float) -> list[str]:
    """Name the positions of interest below the picture, slanted.

    Labels that would touch are left out.
    """
    parts, taken = [], list[float]()
    chosen = list(dict.fromkeys([*result.source, *result.path, *result.columns(LABELS)]))
    for position in chosen:
        x = LEFT + (position - result.first + 0.5) * step
        if all(abs(x - other) >= 13 for other in taken):
            taken.append(x)
            word = escape(f"{result.tokens[position].strip()[:14]} {position}")
            parts.append(
                f'<text class="end" x="{x + 4:.1f}" y="{bottom + 22:.1f}" '
                f'transform="rotate(-50 {x + 4:.1f} {bottom + 22:.1f})">{word}</text>'
            )
    return parts
