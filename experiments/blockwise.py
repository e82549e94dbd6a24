"""How can attention be exact without its matrix of scores? `python -m experiments.blockwise`

Computes a small example tile by tile and prints the running numbers after every tile (see
`experiments.tiles`), compares the result with dense attention, counts every byte that both ways
move, and measures their time beside the project's kernels.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import ArgumentParser, UserError, command
from experiments.benchmarks.benchmark import WrongResult
from experiments.benchmarks.block_times import (
    BLOCK,
    DTYPES,
    HEAD_DIM,
    LENGTHS,
    SHORT,
    WINDOWS,
    Time,
    measure,
)
from experiments.block_example import (
    LARGE,
    Example,
    LargeScores,
    Moved,
    count,
    large_scores,
    walk,
)
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.pages.tile_charts import bytes_chart, tile_drawing, time_chart
from experiments.result import About, Clock, add_json, add_quick, show_hint, store, write_json
from experiments.tiles import FULL, PARTIAL, SKIPPED, RowState, Tile
from model.window import Window

OUT = "runs/blockwise"
TOLERANCE = 1e-12  # in float64
QUICK_LENGTHS, ROUNDS, QUICK_ROUNDS = (512, 1024, 2048), 5, 3
CLAIM = (
    "FlashAttention (arXiv 2205.14135, section 3.2, theorem 2) says of N tokens, heads of d "
    "numbers and a fast memory of M numbers: the standard way accesses the large memory on the "
    "order of N·d + N² times, block-wise attention on the order of N²·d²/M times. A tile of C "
    "queries needs about C·d numbers of fast memory, so C is about M/d, and k and v (N·d numbers) "
    "are read N/C times: that is N²·d²/M. Both grow with N²: block-wise attention moves fewer "
    "bytes by the factor M/d². A window makes it linear in N, because most tiles are never read."
)
LIMITS = (
    "What this does not show: the bytes are counted under a simple rule. Every operation reads its "
    "inputs from the large memory and writes its result there, and a tile fits into the fast one. "
    "On a CPU the caches play the part of a GPU's SRAM; they are larger, and the processor is "
    "slower compared with its memory. So the ratio of times here is not that of a GPU. The tile "
    "loop is plain Python over torch: it also pays for every call."
)


@dataclass(frozen=True)
class BlockwiseResult:
    """The example, the bytes and the times."""

    example: Example
    large: LargeScores
    moved: list[Moved]
    times: list[Time]
    rounds: int
    left_out: dict[str, str]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Show, count, measure, store. The exit code is 1 if a result or a count is wrong."""
    parser = _parser()
    clock = Clock(parser.prog, argv)
    arguments = _checked(parser.parse_args(argv))
    shape = arguments.length, arguments.block, arguments.window, arguments.head_dim
    example, large = walk(*shape), large_scores(*shape)
    print(*example_lines(example), "", sep="\n")
    lengths = QUICK_LENGTHS if arguments.quick else LENGTHS
    rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
    moved = count(lengths, WINDOWS)
    try:
        times, left_out = measure(lengths, WINDOWS, rounds)
    except WrongResult as wrong:
        print(f"wrong: {wrong}", file=sys.stderr)
        return 1
    result = BlockwiseResult(example, large, moved, times, rounds, left_out)
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    store(folder, "blockwise", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    print(check_line(result), bytes_table(result).markdown(), sep="\n\n")
    for window in WINDOWS:
        print("", times_table(result, window).markdown(), sep="\n")
    print(f"\n{show_hint(folder)}")
    return int(not is_right(result))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.blockwise",
        description="Show exact attention tile by tile, and count the bytes that it saves.",
        epilog="example: python -m experiments.blockwise --length 12 --block 4 --window 6 --quick",
    )
    add = parser.add_argument
    add("--length", type=int, default=8, help="tokens of the example (8)")
    add("--block", type=int, default=2, help="queries and keys of a tile of the example (2)")
    add("--window", type=int, default=4, help="window of the example, in keys (4)")
    add("--head-dim", type=int, default=4, help="numbers in a head of the example (4)")
    add("--out", default=OUT, metavar="FOLDER", help=f"folder of the result ({OUT})")
    add_quick(parser, f"lengths up to {QUICK_LENGTHS[-1]:,}, {QUICK_ROUNDS} rounds")
    add_json(parser)
    return parser


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    """Raise `UserError` for sizes that make no example."""
    for name in ("length", "block", "window", "head_dim"):
        value, option = getattr(arguments, name), name.replace("_", "-")
        if not 1 <= value <= 64:
            raise UserError(f"--{option} is {value}: give 1 to 64, so that it can be printed")
    return arguments


def is_right(result: BlockwiseResult) -> bool:
    """Return whether the tiles gave what dense attention gives, and the counts their formulas."""
    return (
        result.example.max_difference <= TOLERANCE
        and result.large.with_maximum <= TOLERANCE
        and all(row.n_bytes == row.formula for row in result.moved)
    )


# ------------------------------------------------------------------- as text


def example_lines(example: Example) -> Iterator[str]:
    """Yield the running numbers after every tile."""
    tiles = example.tiles
    kinds = {kind: sum(tile.kind == kind for tile in tiles) for kind in (FULL, PARTIAL, *SKIPPED)}
    yield (
        f"{example.length} tokens, window {example.window}, tiles of {example.block} queries and "
        f"{example.block} keys, heads of {example.head_dim} numbers, float64"
    )
    yield f"{len(tiles)} tiles: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    for step in example.steps:
        yield ""
        yield f"{step.tile}: {step.tile.kind}, {step.pairs} visible pairs"
        yield f"  {'query':>5} {'m':>9} {'factor':>9} {'l':>9}   o, not yet divided by l"
        for row in step.rows:
            largest = "none" if row.largest is None else f"{row.largest:.4f}"
            output = " ".join(f"{value:>8.4f}" for value in row.output)
            yield (
                f"  {row.query:>5} {largest:>9} {row.factor:>9.4f} {row.total:>9.4f}   {output}"
            )  # fmt: skip


def check_line(result: BlockwiseResult) -> str:
    """Say how far the tiles are from dense attention, and what the running maximum is for."""
    large = result.large
    return (
        f"Largest difference from dense attention: {result.example.max_difference:.1e}, and "
        f"{large.with_maximum:.1e} with scores of about ±{LARGE:,.0f}. Without the running maximum "
        f"{large.lost_without} of {large.numbers} numbers of that output are not finite."
    )


def bytes_table(result: BlockwiseResult) -> Table:
    """Return the bytes of both ways by length."""
    ways = [("dense", None), *(("tiles", window) for window in WINDOWS)]
    found = {(row.way, row.window, row.length): row for row in result.moved}
    rows = []
    for length in sorted({row.length for row in result.moved}):
        own = [found[(*way, length)] for way in ways]
        cells = [f"{row.n_bytes / 1e6:,.2f}" for row in own]
        cells += [f"{own[0].n_bytes / row.n_bytes:,.1f}x" for row in own[1:]]
        cells += [f"{own[0].largest / 1e6:,.2f}", f"{own[1].largest / 1e6:,.3f}"]
        rows.append([f"{length:,}", *cells])
    equal = all(row.n_bytes == row.formula for row in result.moved)
    header = ["tokens", "dense MB", *(f"tiles, {_name(w)}, MB" for w in WINDOWS)]
    header += [*(f"dense / tiles, {_name(w)}" for w in WINDOWS), "largest, dense", "largest, tiles"]
    return Table(
        header, rows,
        f"Megabytes read and written, one head of {HEAD_DIM} numbers, fp32, tiles of {BLOCK} by "
        f"{BLOCK}: counted at every tile, and {'equal to' if equal else 'NOT equal to'} the "
        "formulas of experiments/tiles.py. The window changes nothing for dense, which masks all "
        "scores. Largest: MB of the largest tensor that a step makes.",
    )  # fmt: skip


def times_table(result: BlockwiseResult, window: Window) -> Table:
    """Return the times with one window by length."""
    own = {(t.way, t.length): t for t in result.times if t.window == window}
    ways = list(dict.fromkeys(way for way, _ in own))
    rows = []
    for length in sorted({length for _, length in own}):
        times = [own.get((way, length)) for way in ways]
        rows.append([f"{length:,}", *("-" if t is None else _spread(t) for t in times)])
    worst = max((t.max_difference for t in own.values() if t.way != "native"), default=0.0)
    without = "".join(f" Without {name}: {why}." for name, why in result.left_out.items())
    return Table(
        [f"tokens, window {_name(window)}", *ways], rows,
        f"Milliseconds, one head of {HEAD_DIM} numbers, forward: median of interleaved rounds "
        f"(fastest to slowest), {result.rounds} rounds or, below {SHORT:,} tokens, as many more as "
        f"the text is shorter. {DTYPES if 'native' in ways else 'fp32.'} All were compared with "
        f"the oracle first: the fp32 ones differ by at most {worst:.0e}.{without}",
    )  # fmt: skip


def _name(window: Window) -> str:
    return "full" if window is None else f"W = {window:,}"


def _spread(time: Time) -> str:
    low, high = min(time.seconds) * 1e3, max(time.seconds) * 1e3
    return f"{time.median * 1e3:,.2f} ({low:,.2f} to {high:,.2f})"


# ------------------------------------------------------------------- on the page


def section(about: About, result: BlockwiseResult) -> Section:
    """Return the tiles, the running numbers, the bytes and the times for a page."""
    example = result.example
    return Section(
        "How can attention be exact without its matrix of scores?",
        (
            "Dense attention writes a score for every query and key, masks them, and reads them "
            "again for the softmax. Block-wise attention computes a tile of scores at a time and "
            "keeps three numbers for each query: the largest score so far (m), the sum of "
            "exp(score - m) so far (l), and the sum of the values with these weights (o). Tiles "
            "that the window hides are not computed at all.",
            tile_drawing(example),
            _rows_table(example),
            check_line(result),
            CLAIM,
            bytes_chart(result.moved, WINDOWS),
            *(time_chart(result.times, window) for window in WINDOWS),
            bytes_table(result),
            *(times_table(result, window) for window in WINDOWS),
            LIMITS,
        ),
        about,
    )


def _rows_table(example: Example) -> Table:
    """Return how the numbers of one query grow: of that whose largest score rises most often."""
    own: dict[int, list[tuple[Tile, RowState]]] = {}
    for step in example.steps:
        for row in step.rows:
            own.setdefault(row.query, []).append((step.tile, row))
    query = max(own, key=lambda n: (sum(0 < row.factor < 1 for _, row in own[n]), n))
    rows = []
    for tile, row in own[query]:
        largest = "none" if row.largest is None else f"{row.largest:.4f}"
        numbers = [largest, f"{row.factor:.4f}", f"{row.total:.4f}", _spell(row.output)]
        rows.append([f"{tile.keys[0]} to {tile.keys[1]}", tile.kind, *numbers])
    _, last = own[query][-1]
    output = _spell([value / last.total for value in last.output])
    rows.append(["output: o / l", "", "", "", "", output])
    return Table(
        ["keys", "tile", "m", "factor", "l", "o"], rows,
        f"Query {query} after each of its tiles. The factor, exp(m before - m after), multiplies l "
        "and o before a tile is added. It is 0 as long as no key was seen, and 1 if m stays.",
    )  # fmt: skip


def _spell(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.4f}" for number in numbers)


if __name__ == "__main__":
    sys.exit(main())
