"""Elements of SVG as text. Their classes are those of `pages.style`."""

from collections.abc import Sequence
from html import escape

LETTER = 6.6  # mean width of a letter, in pixels
ROW = 17  # pixels between lines of text


def points(corners: Sequence[tuple[float, float]]) -> str:
    """Return corners as the attribute `points` of a polyline or polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return words at a place; `kind` is its class: title, soft, end, middle."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attribute}>{escape(words)}</text>'


def segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line; `kind` is its class: grid, mark, s0 ... s5."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """Wrap elements in an <svg>, with the title on top, in the first ROW + 8 pixels."""
    room = int((width - 8) / (1.27 * LETTER))  # letters of a title, which is bold
    shown = title if len(title) <= room else title[: room - 1] + "…"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
        f'viewBox="0 0 {width:g} {height:g}" aria-label="{escape(title, quote=True)}">\n'
        + "\n".join([text(4, ROW, shown, "title"), *parts])
        + "\n</svg>"
    )
