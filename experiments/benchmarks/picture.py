"""`--png FILE`: the results of a benchmark as one picture, drawn by matplotlib."""

import argparse
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from errors import UserError
from experiments.benchmarks.benchmark import Panel
from storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3  # panels beside each other
BREEZE, PEER, GOAL = "#2f6fc0", "#9aa4b0", "#c2660f"  # colors


def add_png(parser: argparse.ArgumentParser) -> None:
    """Declare `--png FILE`."""
    parser.add_argument("--png", metavar="FILE", help="also draw the results to FILE, a picture")


def refuse_png(path: str | None) -> None:
    """Raise `UserError` if a picture is wanted and cannot be drawn or written."""
    if path is None:
        return
    if find_spec("matplotlib") is None:
        raise UserError("--png needs matplotlib: pip install -e '.[plots]'")
    if not Path(path).parent.is_dir():
        raise UserError(f"--png {path}: there is no folder {Path(path).parent}: make it first")


def write_png(path: str, panels: Sequence[Panel]) -> None:
    """Draw the panels beside each other, and write the picture whole or not at all."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    for number, draw in enumerate(panels):
        draw(figure.add_subplot(rows, columns, number + 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    atomic_write(Path(path), buffer.getvalue())


def bars(title: str, values: dict[str, float], goals: dict[str, float]) -> Panel:
    """Return a panel of horizontal bars, the first on top, with a line across a bar at its goal."""

    def draw(axes: "Axes") -> None:
        names = list(values)[::-1]
        colors = [BREEZE if name in goals or "Breeze" in name else PEER for name in names]
        axes.barh(names, [values[name] for name in names], color=colors)
        for name, goal in goals.items():
            axes.plot(
                [goal, goal], [names.index(name) - 0.45, names.index(name) + 0.45], color=GOAL
            )
        axes.set_title(f"{title} (line: goal)" if goals else title, fontsize=9)
        axes.tick_params(labelsize=7)

    return draw


def curves(
    title: str, across: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    marks: Sequence[float] = (), log: bool = False,
) -> Panel:  # fmt: skip
    """Return a panel of lines, each named and given by its x and y; `marks` are horizontal."""

    def draw(axes: "Axes") -> None:
        for name, (x, y) in lines.items():
            axes.plot(x, y, marker="o", markersize=3, label=name)
        for mark in marks:
            axes.axhline(mark, color=GOAL, linestyle="--", linewidth=1, label=f"mark {mark:g}")
        if log:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(across, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)

    return draw
