"""Charts as PNG: rendered from their SVG by resvg, with the font that matplotlib brings."""

from importlib.util import find_spec
from pathlib import Path

from errors import UserError
from storage import atomic_write

ZOOM = 2.0  # pixels of the picture for each pixel of the chart


def refuse_png(option: str) -> None:
    """Raise `UserError` if the libraries of the extra `plots` are missing."""
    if find_spec("resvg_py") is None or find_spec("matplotlib") is None:
        raise UserError(f"{option} needs the extra plots: pip install -e '.[plots]'")


def write_png(path: Path, svg: str) -> None:
    """Draw the content of an SVG file to `path`, whole or not at all."""
    import matplotlib
    import resvg_py

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    picture = resvg_py.svg_to_bytes(
        svg_string=svg, zoom=ZOOM, skip_system_fonts=True, font_dirs=[str(fonts)],
        sans_serif_family="DejaVu Sans", font_family="DejaVu Sans",
        monospace_family="DejaVu Sans Mono",
    )  # fmt: skip
    atomic_write(path, bytes(picture))
