"""Draw the mask, the ring and the reach as one SVG picture: `python -m experiments.draw`

The cells of the mask and the lines of the reach are computed by the rule itself,
`model.window.visible`. Every call writes the same bytes.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from errors import ArgumentParser, command
from model.window import reach, visible
from storage import atomic_write

PICTURE = Path(__file__).resolve().parent.parent / "docs/window.svg"
N_TOKENS, WINDOW = 8, 3  # of the mask
RING, N_WRITTEN = 4, 7  # slots of the ring, and tokens written to it
N_LAYERS, N_COLUMNS = 3, 9  # of the reach, with the window of the mask
WIDTH, HEIGHT = 980, 360  # pixels
CELL = 26

STYLE = """
  .paper { fill: #ffffff; stroke: #d0d7de; }
  text { fill: #1f2328; font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
  .title { font-size: 17px; font-weight: 600; }
  .number { text-anchor: middle; }
  .label { text-anchor: end; }
  .seen { fill: #2f6fc0; }
  .own { fill: #c2660f; }
  .hidden { fill: #eaeef2; }
  .seen, .own, .hidden { stroke: #ffffff; stroke-width: 2; }
  .inside { fill: #ffffff; }
  .line { stroke: #2f6fc0; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117; stroke: #30363d; }
    text { fill: #e6edf3; }
    .hidden { fill: #262c36; }
    .seen, .own, .hidden { stroke: #0d1117; }
    .inside { fill: #ffffff; }
  }
"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture."""
    parser = ArgumentParser(
        prog="python -m experiments.draw",
        description="Draw the mask, the ring and the reach of a sliding window as SVG.",
        epilog="example: python -m experiments.draw --out window.svg",
    )
    parser.add_argument("--out", default=str(PICTURE), metavar="FILE",
                        help="file to write (docs/window.svg)")  # fmt: skip
    path = Path(parser.parse_args(argv).out)
    atomic_write(path, picture().encode())
    print(path)
    return 0


def picture() -> str:
    """Return the whole picture as SVG."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">',
        "<title>The mask, the ring and the reach of a sliding window</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        *_mask(24, 34),
        *_ring(360, 34),
        *_reach(632, 34),
        "</svg>",
        "",
    ])  # fmt: skip


def _mask(x: int, y: int) -> Iterator[str]:
    """Draw a row for each query and a column for each key."""
    yield _text(x, y, "The mask", "title")
    yield _text(x, y + 24, f"A token sees {WINDOW} keys, its own included.")
    left, top = x + 64, y + 68
    yield _text(left - 12, top - 8, "key", "label")
    for j in range(N_TOKENS):
        yield _text(left + j * CELL + CELL // 2, top - 8, str(j), "number")
    for i in range(N_TOKENS):
        yield _text(left - 12, top + i * CELL + 18, f"query {i}", "label")
        for j in range(N_TOKENS):
            seen = visible(i, j, WINDOW)
            kind = "own" if i == j else "seen" if seen else "hidden"
            yield _cell(left + j * CELL, top + i * CELL, kind, query=i, key=j)
    yield _text(x, top + N_TOKENS * CELL + 28, f"Row i sees min(i + 1, {WINDOW}) keys.")


def _ring(x: int, y: int) -> Iterator[str]:
    """Draw a row for each written token: the positions that the slots hold after it."""
    yield _text(x, y, "The ring", "title")
    yield _text(x, y + 24, f"A window of {RING} needs {RING} slots.")
    left, top, wide = x + 72, y + 68, CELL + 10
    yield _text(left - 12, top - 8, "slot", "label")
    slots: list[int | None] = [None] * RING
    for slot in range(RING):
        yield _text(left + slot * wide + wide // 2, top - 8, str(slot), "number")
    for position in range(N_WRITTEN):
        slots[position % RING] = position
        row = top + position * (CELL + 4)
        yield _text(left - 12, row + 18, f"token {position}", "label")
        for slot, stored in enumerate(slots):
            kind = "hidden" if stored is None else "own" if stored == position else "seen"
            yield _cell(
                left + slot * wide, row, kind, width=wide, after=position, slot=slot,
                position=-1 if stored is None else stored,
            )  # fmt: skip
            if stored is not None:
                yield _text(left + slot * wide + wide // 2, row + 18, str(stored), "number inside")
    yield _text(x, top + N_TOKENS * CELL + 28, f"Position p is in slot p mod {RING}.")


def _reach(x: int, y: int) -> Iterator[str]:
    """Draw the tokens, a row for each layer above them, and the paths to the last output."""
    yield _text(x, y, "The reach", "title")
    yield _text(x, y + 24, "Each layer passes on what the one below it saw.")
    left, top, apart, high = x + 78, y + 76, 30, 54
    columns = _reached()
    for layer in range(N_LAYERS, 0, -1):
        row = top + (N_LAYERS - layer) * high
        for i in columns[layer]:
            for j in (j for j in range(N_COLUMNS) if visible(i, j, WINDOW)):
                yield (
                    f'<line class="line" x1="{left + i * apart}" y1="{row}" '
                    f'x2="{left + j * apart}" y2="{row + high}"/>'
                )
    for layer, reached in enumerate(columns):
        row = top + (N_LAYERS - layer) * high
        yield _text(left - 20, row + 5, f"layer {layer}" if layer else "tokens", "label")
        for column in range(N_COLUMNS):
            kind = "own" if layer == N_LAYERS else "seen"
            yield (
                f'<circle class="{kind if column in reached else "hidden"}" '
                f'cx="{left + column * apart}" cy="{row}" r="10" '
                f'data-layer="{layer}" data-token="{column}"/>'
            )
    for column in range(N_COLUMNS):
        yield _text(left + column * apart, top + N_LAYERS * high + 28, str(column), "number")
    total, step = reach([WINDOW] * N_LAYERS), WINDOW - 1
    yield _text(
        x, y + 68 + N_TOKENS * CELL + 28,
        f"The last output depends on 1 + {N_LAYERS} · {step} = {total} tokens.",
    )  # fmt: skip


def _reached() -> list[list[int]]:
    """List the columns that the last output depends on: in the tokens, then in each layer."""
    columns = [[N_COLUMNS - 1]]
    for _ in range(N_LAYERS):
        below = {j for i in columns[0] for j in range(N_COLUMNS) if visible(i, j, WINDOW)}
        columns.insert(0, sorted(below))
    return columns


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}"' + (f' class="{kind}"' if kind else "") + f">{text}</text>"


def _cell(x: int, y: int, kind: str, width: int = CELL, **data: int) -> str:
    """Return a cell; `data` are the numbers that it stands for, such as query and key."""
    attributes = " ".join(f'data-{name}="{value}"' for name, value in data.items())
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{CELL}" {attributes}/>'


if __name__ == "__main__":
    sys.exit(main())
