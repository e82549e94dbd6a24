"""Charts as SVG: lines with bands, bars with whiskers, heat maps, and free drawings.

A chart is data first. Its `svg()` is the same in a page and in a file; `pages.style` colors it. The
charts need no library, so that every installation makes the pages. A number that was not measured
(None) is left out of a line, and empty in a heat map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from experiments.intervals import Interval
from experiments.pages.scales import log_ticks, number, scale, ticks
from experiments.pages.shapes import LETTER, ROW, points, segment, svg, text
from experiments.pages.style import N_COLORS

WIDTH, HEIGHT = 440, 300  # pixels: readable at the width of a phone
LEFT, RIGHT, BOTTOM = 58, 24, 42  # pixels around the plot
MARK_ROWS = 6  # rows for the words of marks


class Chart(Protocol):
    """What a page can show."""

    @property
    def title(self) -> str:
        """Say what is drawn."""
        ...

    @property
    def caption(self) -> str:
        """Say in plain words what the chart shows, and what it does not."""
        ...

    def svg(self) -> str:
        """Return one <svg> element."""
        ...


@dataclass(frozen=True)
class Line:
    """A line of points, with intervals where there are any."""

    name: str
    x: Sequence[float]
    y: Sequence[Interval | float | None]
    dashed: bool = False  # for what is computed or fitted, not measured


@dataclass(frozen=True)
class LineChart:
    """Lines over one x axis. `marks` are vertical lines, each an x and a word."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    caption: str = ""
    marks: Sequence[tuple[float, str]] = ()
    log_x: bool = False  # base 2
    log_y: bool = False  # base 10; zeros are left out
    y_range: tuple[float, float] | None = None
    percent: bool = False  # y is a share

    def svg(self) -> str:
        """Return the chart as one <svg> element."""
        names = [line.name for line in self.lines]
        legend, top = _legend(names) if len(names) > 1 else ([], ROW + 25)
        frame = _Frame(self, top)
        parts = [*legend, *frame.axes()]
        for n, line in enumerate(self.lines):
            parts += frame.line(line, n % N_COLORS)
        return svg(self.title, WIDTH, HEIGHT, [*parts, *frame.marks()])


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from 0, to the left for numbers below it, with whiskers for intervals."""

    title: str
    x_label: str
    bars: Sequence[tuple[str, Interval]]
    caption: str = ""
    form: str = ",.4g"  # of the number beside a bar

    def svg(self) -> str:
        """Return the chart as one <svg> element."""
        left = 16 + LETTER * max((len(name) for name, _ in self.bars), default=0)
        ends = [end for _, value in self.bars for end in _values(value)]
        lowest, highest = min([0.0, *ends]), max([0.0, *ends])
        per_unit = (WIDTH - left - 80) / ((highest - lowest) or 1.0)
        zero = left - lowest * per_unit
        parts, y = [], ROW + 24
        for name, value in self.bars:
            start, end = sorted((zero, zero + value.mean * per_unit))
            right = zero + max(0.0, *_values(value)) * per_unit
            parts += [
                text(left - 8, y + 12, name, "end"),
                f'<rect class="f0" x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="16"/>',
                text(right + 6, y + 12, f"{value.mean:{self.form}}"),
            ]
            if value.low is not None and value.high is not None:
                whisker = zero + value.low * per_unit, zero + value.high * per_unit
                parts.append(segment(whisker[0], y + 8, whisker[1], y + 8, "whisker"))
            y += 26
        if lowest < 0:
            parts.append(segment(zero, ROW + 20, zero, y - 6, "mark"))
        parts.append(text((left + WIDTH) / 2, y + 12, self.x_label, "soft middle"))
        return svg(self.title, WIDTH, y + 24, parts)


@dataclass(frozen=True)
class HeatMap:
    """A grid of numbers; the darker a cell, the larger its number."""

    title: str
    x_label: str
    y_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[float | None]]  # one row of cells for each of `rows`
    caption: str = ""
    form: str = ".2f"  # of the numbers in the cells; "" writes none
    low: float | None = None  # the number without color; None: the smallest
    high: float | None = None  # the number of full color; None: the largest

    def svg(self) -> str:
        """Return the chart as one <svg> element."""
        known = [cell for row in self.cells for cell in row if cell is not None]
        low = min(known, default=0.0) if self.low is None else self.low
        high = max(known, default=1.0) if self.high is None else self.high
        left = 14 + LETTER * max(map(len, self.rows), default=0)
        wide = (WIDTH - left - 8) / max(1, len(self.columns))
        tall = min(28.0, max(14.0, wide))
        top = ROW + 40
        parts = [text(left, ROW + 16, f"{self.y_label} ↓   {self.x_label} →", "soft")]
        step = max(1, math.ceil(LETTER * max(map(len, self.columns), default=0) / wide))
        for n, name in enumerate(self.columns):
            if n % step == 0:
                parts.append(text(left + (n + 0.5) * wide, top - 5, name, "middle"))
        for r, (name, row) in enumerate(zip(self.rows, self.cells, strict=True)):
            y = top + r * tall
            parts.append(text(left - 6, y + tall / 2 + 4, name, "end"))
            for c, cell in enumerate(row):
                words = f"{name}, {self.columns[c]}"
                parts += _cell(left + c * wide, y, wide, tall, cell, low, high, self.form, words)
        return svg(self.title, WIDTH, top + len(self.rows) * tall + 8, parts)


@dataclass(frozen=True)
class Drawing:
    """A free drawing: SVG elements inside a box of `width` by `height` pixels."""

    title: str
    width: int
    height: int
    elements: Sequence[str]
    caption: str = ""

    def svg(self) -> str:
        """Return the drawing as one <svg> element."""
        return svg(self.title, self.width, self.height, self.elements)


class _Frame:
    """The plot area of a line chart: its scales and axes."""

    def __init__(self, chart: LineChart, top: float) -> None:
        self.chart, self.top = chart, top
        shown = [
            (x, v) for line in chart.lines for x, y in zip(line.x, line.y, strict=True)
            for v in _values(y) if not chart.log_y or v > 0
        ]  # fmt: skip
        xs = [x for x, _ in shown] + [x for x, _ in chart.marks] or [1.0, 2.0]
        ys = [y for _, y in shown] or [1.0, 2.0]
        self.x_ticks = log_ticks(min(xs), max(xs), 2) if chart.log_x else ticks(min(xs), max(xs))
        low, high = chart.y_range or (min(ys), max(ys))
        self.y_ticks = log_ticks(low, high, 10) if chart.log_y else ticks(low, high)
        self._x = scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, chart.log_x)
        bottom_value, top_value = self.y_ticks[0], self.y_ticks[-1]
        if chart.y_range:
            bottom_value, top_value = chart.y_range
        self.y_ends = bottom_value, top_value
        self._y = scale(bottom_value, top_value, HEIGHT - BOTTOM, top, chart.log_y)

    def axes(self) -> list[str]:
        """Draw grid lines with their numbers, and the names of the axes."""
        parts = []
        shown = "{:.0%}" if self.chart.percent else "{}"
        for tick in self.y_ticks:
            y = self._y(tick)
            label = shown.format(tick) if self.chart.percent else number(tick, self.chart.log_y)
            parts += [
                segment(LEFT, y, WIDTH - RIGHT, y, "grid"), text(LEFT - 6, y + 4, label, "end soft")
            ]  # fmt: skip
        bottom = HEIGHT - BOTTOM
        labels = [(self._x(tick), number(tick)) for tick in self.x_ticks]
        for x, label in _apart(labels):
            parts += [segment(x, bottom, x, bottom + 4, "grid"),
                      text(x, bottom + 17, label, "middle soft")]  # fmt: skip
        center = (LEFT + WIDTH - RIGHT) / 2
        parts.append(text(center, HEIGHT - 8, self.chart.x_label, "middle soft"))
        parts.append(text(4, self.top - 8, self.chart.y_label, "soft"))
        return parts

    def line(self, line: Line, color: int) -> list[str]:
        """Draw a line, its points, and a band for its intervals."""
        pieces: list[list[tuple[float, float, Interval | float]]] = [[]]
        for x, y in zip(line.x, line.y, strict=True):
            mean = y.mean if isinstance(y, Interval) else y
            if mean is None or y is None or (self.chart.log_y and mean <= 0):
                pieces.append([])
            else:
                pieces[-1].append((self._x(x), self._y(mean), y))
        parts = []
        for piece in filter(None, pieces):
            band = [
                (x, y.low, y.high) for x, _, y in piece
                if isinstance(y, Interval) and y.low is not None and y.high is not None
            ]  # fmt: skip
            if len(band) > 1:
                lower, upper = self.y_ends
                corners = [(x, self._y(min(high, upper))) for x, _, high in band]
                corners += [(x, self._y(max(low, lower))) for x, low, _ in reversed(band)]
                parts.append(f'<polygon class="f{color} area" points="{points(corners)}"/>')
            kind = f"curve s{color}" + " dashed" * line.dashed
            parts.append(f'<polyline class="{kind}" points="{points([p[:2] for p in piece])}"/>')
            if not line.dashed and len(piece) <= 40:
                parts += [
                    f'<circle class="f{color}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>'
                    f"{escape(line.name)}: {escape(_spell(value))}</title></circle>"
                    for x, y, value in piece
                ]
        return parts

    def marks(self) -> list[str]:
        """Draw the vertical lines, each word on the first row where it overlaps no earlier word.

        If there is no such row, the word is on the last one.
        """
        parts = []
        taken: list[list[tuple[float, float]]] = [[] for _ in range(MARK_ROWS)]
        for x, word in self.chart.marks:
            place, width = self._x(x), LETTER * len(word)
            near_end = place + width > WIDTH - RIGHT
            start = place - 4 - width if near_end else place + 4
            row = next((n for n, spans in enumerate(taken) if _is_free(start, width, spans)), -1)
            taken[row].append((start, start + width))
            height = self.top + 12 + ROW * (row % MARK_ROWS)
            parts.append(segment(place, self.top, place, HEIGHT - BOTTOM, "mark"))
            shift = -4 if near_end else 4
            parts.append(text(place + shift, height, word, "soft end" if near_end else "soft"))
        return parts


def _is_free(start: float, width: float, spans: Sequence[tuple[float, float]]) -> bool:
    """Return whether a word from `start` on touches none of the spans (start, end) of others."""
    return all(start + width + 4 < first or start > last + 4 for first, last in spans)


def _values(y: Interval | float | None) -> list[float]:
    if isinstance(y, Interval):
        return [value for value in (y.mean, y.low, y.high) if value is not None]
    return [] if y is None else [y]


def _spell(y: Interval | float) -> str:
    return y.text(".4g") if isinstance(y, Interval) else f"{y:.4g}"


def _apart(labels: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leave out labels that would touch the one before, or leave the plot."""
    kept: list[tuple[float, str]] = []
    for x, label in labels:
        before = kept[-1] if kept else None
        room = before is None or x - before[0] > LETTER * (len(label) + len(before[1])) / 2 + 8
        if room and LEFT - 1 <= x <= WIDTH - RIGHT + 1:
            kept.append((x, label))
    return kept


def _legend(names: Sequence[str]) -> tuple[list[str], float]:
    """Draw the names of the series under the title; return the parts and where the plot begins."""
    parts, x, y = [], 4.0, ROW + 18.0
    for n, name in enumerate(names):
        width = 22 + LETTER * len(name)
        if x + width > WIDTH and x > 4:
            x, y = 4.0, y + ROW
        parts.append(f'<rect class="f{n % N_COLORS}" x="{x}" y="{y - 9}" width="11" height="11"/>')
        parts.append(text(x + 15, y + 1, name))
        x += width + 6
    return parts, y + 30


def _cell(
    x: float, y: float, wide: float, tall: float, value: float | None,
    low: float, high: float, form: str, words: str,
) -> list[str]:  # fmt: skip
    """Draw a cell of a heat map, its number inside if it fits."""
    box = f'x="{x:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{tall - 1:.1f}"'
    if value is None:
        return [f'<rect class="empty" {box}/>']
    strength = min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))
    shown = f"{value:{form}}" if form else ""
    parts = [
        f'<rect class="empty" {box}/>',
        f'<rect class="f0" opacity="{0.06 + 0.6 * strength:.3f}" {box}>'
        f"<title>{escape(words)}: {shown or f'{value:.4g}'}</title></rect>",
    ]
    if shown and LETTER * len(shown) < wide:
        parts.append(text(x + wide / 2, y + tall / 2 + 4, shown, "middle"))
    return parts
