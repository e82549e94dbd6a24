"""Can a model be used with another window than in training? `python -m experiments.swap SWEEP`

Windows have no weights. So every run of a sweep can be scored under every window of the sweep: one
row for each window of the training, one column for each window of the test. On the diagonal both
are equal. Every score is kept in the run's folder, so that a stopped command continues.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.splits import SPLITS
from errors import ArgumentParser, UserError, command
from experiments.groups import Group, groups_of
from experiments.intervals import Interval, over_runs, paired
from experiments.pages.charts import HeatMap
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.result import About, Clock, add_json, add_quick, show_hint, store, write_json
from experiments.sweeps.scores import Look, Scorer, trained_look

QUICK_TOKENS = 10_000


@dataclass(frozen=True)
class SwapCell:
    """The runs of one trained window under one tested window."""

    bpb: Interval  # bits per byte, over seeds
    bpb_of_seeds: tuple[float, ...]
    against: Interval  # minus the same runs under the window of their training


@dataclass(frozen=True)
class SwapResult:
    """Bits per byte by trained and by tested window."""

    split: str
    tokens: int | None  # from the beginning of the split; None: all
    seeds: tuple[int, ...]  # runs of each trained window
    trained: tuple[str, ...]  # names of the rows
    tested: tuple[str, ...]  # names of the columns
    cells: tuple[tuple[SwapCell, ...], ...]  # a row for each of `trained`


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Score every run under every window, and print the matrix."""
    parser = ArgumentParser(
        prog="python -m experiments.swap",
        description="Score the runs of a sweep under every window of the sweep.",
        epilog="example: python -m experiments.swap runs/sweep-quick --quick",
    )
    parser.add_argument("sweep", metavar="SWEEP", help="the folder of a sweep")
    parser.add_argument("--split", choices=SPLITS, default="test", help="text to score (test)")
    parser.add_argument("--tokens", type=int, metavar="N", help="only the first of the split (all)")
    add_quick(parser, f"one seed and {QUICK_TOKENS:,} tokens")
    add_json(parser)
    clock = Clock(parser.prog, argv)
    arguments = parser.parse_args(argv)
    tokens = arguments.tokens
    if tokens is not None and tokens < 2:
        raise UserError(f"--tokens is {tokens}: give 2 or more")
    groups = groups_of([arguments.sweep])
    if len(groups) < 2:
        raise UserError(f"{arguments.sweep} has one window: name a sweep with several")
    if arguments.quick:
        groups = [Group(group.name, group.runs[:1]) for group in groups]
        tokens = tokens or QUICK_TOKENS
    result = measure(groups, arguments.split, tokens)
    path = Path(arguments.sweep)
    store(path, "swap", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    print(table(result).markdown())
    print(f"\n{show_hint(path)}")
    return 0


def measure(groups: Sequence[Group], split: str, tokens: int | None) -> SwapResult:
    """Score all runs. Raises `UserError` if a text has changed or has no such split."""
    looks = {group.name: trained_look(group.runs[0]) for group in groups}
    columns: dict[Look, str] = {}
    for name, look in looks.items():
        columns.setdefault(look, _label(name))
    n_layers = {len(look.windows) for look in looks.values()}
    if len(n_layers) > 1:
        raise UserError("the runs differ in their number of layers: swap needs one architecture")
    scorer = Scorer(split, tokens)
    cells = []
    for group in groups:
        by_run = [scorer.score(run, [*columns, looks[group.name]]) for run in group.runs]
        by_look = list(zip(*by_run, strict=True))
        own = by_look.pop()
        cells.append(
            tuple(SwapCell(over_runs(found), found, paired(found, own)) for found in by_look)
        )
    seeds = tuple(len(group.runs) for group in groups)
    trained = tuple(_label(group.name) for group in groups)
    return SwapResult(split, tokens, seeds, trained, tuple(columns.values()), tuple(cells))


def _label(name: str) -> str:
    return name.removeprefix("window-")


def table(result: SwapResult) -> Table:
    """Return the matrix with its intervals, and below each number what the swap loses."""
    rows = []
    for name, row in zip(result.trained, result.cells, strict=True):
        rows.append([f"trained {name}", *(cell.bpb.text() for cell in row)])
        rows.append(["  minus its own", *(_difference(cell.against) for cell in row)])
    return Table(["", *(f"tested {name}" for name in result.tested)], rows, _caption(result))


def _difference(value: Interval) -> str:
    is_own = value.mean == 0 and value.low in (None, 0)
    return "-" if is_own else value.text("+.4f")


def _caption(result: SwapResult) -> str:
    few, many = min(result.seeds), max(result.seeds)
    seeds = f"{few}" if few == many else f"{few} to {many}"
    intervals = (
        f"in brackets: 95 % intervals over {seeds} seeds (Student's t)"
        if few > 1
        else "no intervals with one seed"
    )
    part = "" if result.tokens is None else f", its first {result.tokens:,} tokens"
    return (
        f"Bits per byte of the {result.split} split{part}; {intervals}. Minus its own: the "
        "difference to the same runs under the window of their training, paired by seed."
    )


def section(about: About, result: SwapResult) -> Section:
    """Return the part of a page about swapped windows."""
    seeds = max(result.seeds)
    chart = HeatMap(
        "Bits per byte by trained and tested window", "tested with", "trained with",
        result.tested, result.trained,
        [[cell.bpb.mean for cell in row] for row in result.cells],
        f"Dark is bad. Means over {seeds} seed{'s' * (seeds > 1)}. The strongest color stands for "
        "twice the smallest number or more. Not shown: the intervals, which the table has.",
        form=".3f", high=2 * min(cell.bpb.mean for row in result.cells for cell in row),
    )  # fmt: skip
    texts = [
        "A window has no weights: the same model can be used with another window than in training. "
        "A row is a trained window, a column the window that was used.",
        "Read a row: what the same models lose under another window. Read a column: which trained "
        "window is best for a given test window. Neither says how well far facts are remembered.",
    ]
    return Section(
        "Can a model be used with another window than in training?",
        [texts[0], chart, texts[1], table(result)], about,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
