"""Drawings of block-wise attention: which tiles are computed, and what grows with the length."""

from collections.abc import Sequence

from experiments.benchmarks.block_times import BLOCK, DTYPES, HEAD_DIM, Time
from experiments.block_example import Example, Moved
from experiments.pages.charts import Drawing, Line, LineChart
from experiments.pages.shapes import ROW, text
from experiments.tiles import AFTER, BEFORE, FULL, PARTIAL
from model.window import Window, visible

WIDTH = 680  # pixels of the drawing
COLORS = {FULL: "f0", PARTIAL: "f1"}  # of visible pairs, by the kind of their tile


def tile_drawing(example: Example) -> Drawing:
    """Draw a cell for each (query, key) pair, and an outline around each tile."""
    left, top = 76.0, ROW + 34.0
    cell = min(36.0, (WIDTH - left - 190) / example.length)
    parts = [text(left - 8, top - 6, "key", "soft end")]
    step = -(-24 // int(cell))  # so that numbers do not touch
    for n in range(0, example.length, step):
        parts.append(text(left + (n + 0.5) * cell, top - 6, str(n), "soft middle"))
        parts.append(text(left - 8, top + (n + 0.5) * cell + 4, f"query {n}", "soft end"))
    for tile in example.tiles:
        (first, last), (early, late) = tile.queries, tile.keys
        if tile.kind in COLORS:
            for i in range(first, last + 1):
                for j in range(early, late + 1):
                    seen = visible(i, j, example.window)
                    kind = f'class="{COLORS[tile.kind]}" opacity="{0.7 if seen else 0.15}"'
                    parts.append(_rect(kind, left + j * cell, top + i * cell, cell, cell, 1.0))
        outline = 'class="mark" fill="none"' if tile.kind in COLORS else 'class="empty"'
        size = (late - early + 1) * cell, (last - first + 1) * cell
        parts.append(_rect(outline, left + early * cell, top + first * cell, *size, 2.0))
    x, y = left + example.length * cell + 16, top + 12
    for words, kind in (
        ("computed, every pair visible", 'class="f0" opacity="0.7"'),
        ("computed, partly masked", 'class="f1" opacity="0.7"'),
        ("computed, then masked", 'class="f1" opacity="0.15"'),
        ("not computed", 'class="empty"'),
    ):
        parts += [_rect(kind, x, y - 10, 12, 12, 0.0), text(x + 18, y + 1, words)]
        y += 22
    height = round(max(top + example.length * cell, y) + 10)
    kinds = [tile.kind for tile in example.tiles]
    return Drawing(
        f"The tiles of {example.length} tokens with window {example.window}", WIDTH, height, parts,
        f"{len(kinds)} tiles. Computed without a mask: {kinds.count(FULL)}; computed and partly "
        f"masked: {kinds.count(PARTIAL)}. Never read: {kinds.count(BEFORE)} before the window and "
        f"{kinds.count(AFTER)} after the queries.",
    )  # fmt: skip


def _rect(kind: str, x: float, y: float, wide: float, tall: float, gap: float) -> str:
    return (
        f'<rect {kind} x="{x + gap / 2:.1f}" y="{y + gap / 2:.1f}" '
        f'width="{wide - gap:.1f}" height="{tall - gap:.1f}"/>'
    )


def bytes_chart(moved: Sequence[Moved], windows: Sequence[Window]) -> LineChart:
    """Draw the bytes of both ways over the length."""
    lengths = sorted({row.length for row in moved})
    found = {(row.way, row.window, row.length): row.n_bytes for row in moved}
    lines = [Line("dense", lengths, [found["dense", None, n] / 1e6 for n in lengths])]
    for window in windows:
        name = "tiles, full" if window is None else f"tiles, W = {window}"
        lines.append(Line(name, lengths, [found["tiles", window, n] / 1e6 for n in lengths]))
    least = [16 * n * HEAD_DIM / 1e6 for n in lengths]
    lines.append(Line("q, k, v and output once", lengths, least, dashed=True))
    return LineChart(
        "Bytes moved by length", "tokens", "MB", lines,
        f"Counted, not measured: one head of {HEAD_DIM} numbers, fp32, tiles of {BLOCK} by "
        f"{BLOCK}. Dense and tiles of full attention grow with the square of the length, tiles of "
        "a window with the length.",
        log_x=True, log_y=True,
    )  # fmt: skip


def time_chart(times: Sequence[Time], window: Window) -> LineChart:
    """Draw the median time of every contender with one window over the length."""
    own = [time for time in times if time.window == window]
    found = {(time.way, time.length): time.median * 1e3 for time in own}
    lengths = sorted({time.length for time in own})
    ways = dict.fromkeys(time.way for time in own)
    name = "full attention" if window is None else f"a window of {window}"
    return LineChart(
        f"Time by length, {name}", "tokens", "ms",
        [Line(way, lengths, [found.get((way, n)) for n in lengths]) for way in ways],
        f"Measured on this CPU: one head of {HEAD_DIM} numbers, forward, median of the rounds."
        f"{f' {DTYPES}' if 'native' in ways else ''}",
        log_x=True, log_y=True,
    )  # fmt: skip
