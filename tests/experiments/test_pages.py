"""experiments/pages: charts show the numbers they are given, and pages need nothing else."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from experiments.intervals import Interval
from experiments.pages.charts import BarChart, Drawing, HeatMap, Line, LineChart
from experiments.pages.page import Section, page, svg_file
from experiments.pages.png import write_png
from experiments.pages.scales import log_ticks, number, ticks
from experiments.pages.table import Table

SVG = "{http://www.w3.org/2000/svg}"
LINES = [
    Line("measured", [1, 2, 4, 8], [Interval(0.9, 0.8, 1.0, 3), 0.5, None, 0.25]),
    Line("computed <&>", [1, 8], [0.1, 0.1], dashed=True),
]
BARS = [("a", Interval(2.0, 1.0, 3.0, 3)), ("b", Interval(4.0, None, None, 1))]
CHARTS = {
    "line": LineChart("Lines & <bands>", "x", "y", LINES, "Caption", [(4, "wall")], log_x=True),
    "bar": BarChart("Bars", "MB", BARS),
    "heat": HeatMap("Heat", "columns", "rows", ["1", "2"], ["a", "b"], [[0.0, 1.0], [None, 0.5]]),
    "free": Drawing("Free", 100, 50, ['<rect class="f0" width="10" height="10"/>']),
}  # fmt: skip


def texts(root: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """The places of all texts of a chart."""
    return {e.text or "": (float(e.get("x", "0")), float(e.get("y", "0")))
            for e in root.iter(f"{SVG}text")}  # fmt: skip


@pytest.mark.parametrize("kind", CHARTS)
def test_charts_are_well_formed(kind: str) -> None:
    """A name with < or & breaks the page; a file of its own needs its own colors."""
    chart = CHARTS[kind]
    root = ElementTree.fromstring(chart.svg())
    assert chart.title in texts(root)
    file = ElementTree.fromstring(svg_file(chart))
    assert ".chart" in (file.findtext(f"{SVG}style") or "")


def test_points_stand_where_the_axes_say() -> None:
    """A point at another place than its number on the axis: the picture would lie."""
    chart = LineChart("t", "x", "y", [Line("a", [0, 10, 20], [0.0, 5.0, 10.0])])
    root = ElementTree.fromstring(chart.svg())
    points = [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in root.iter(f"{SVG}circle")]
    labels = [e for e in root.iter(f"{SVG}text") if (e.text or "").isdigit()]
    x_axis = {e.text: float(e.get("x", "")) for e in labels if "middle" in e.get("class", "")}
    y_axis = {e.text: float(e.get("y", "")) - 4 for e in labels if "end" in e.get("class", "")}
    assert points[0] == (pytest.approx(x_axis["0"], abs=0.2), pytest.approx(y_axis["0"], abs=0.2))
    assert points[2] == (pytest.approx(x_axis["20"], abs=0.2), pytest.approx(y_axis["10"], abs=0.2))
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.2)


def test_log_axes_space_powers_evenly() -> None:
    """A logarithmic axis that is linear, or a zero that breaks it."""
    line = Line("a", [1, 2, 4, 8], [1.0, 0.1, 0.01, 0.0])
    root = ElementTree.fromstring(LineChart("t", "x", "y", [line], log_x=True, log_y=True).svg())
    points = [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in root.iter(f"{SVG}circle")]
    assert len(points) == 3  # zero has no place
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)


EMPTY = {
    "heat": HeatMap("t", "x", "y", [], ["a"], [[]]),
    "heat without rows": HeatMap("t", "x", "y", [], [], []),
    "line": LineChart("t", "x", "y", [], log_x=True, log_y=True),
    "points": LineChart("t", "x", "y", [Line("a", [], [])], log_x=True, log_y=True),
    "bar": BarChart("t", "x", []),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_chart_of_nothing_is_empty(kind: str) -> None:
    """A result without numbers, such as that of a run of one step, ended in a traceback."""
    assert "t" in texts(ElementTree.fromstring(EMPTY[kind].svg()))


def test_words_of_marks_do_not_overlap() -> None:
    """Words of marks that are close were written on each other."""
    marks = [(x, f"the window of {x}") for x in (8, 28, 32, 124, 128, 508)]
    chart = LineChart("t", "x", "y", [Line("a", [1, 512], [0.0, 1.0])], marks=marks, log_x=True)
    spans = []
    for element in ElementTree.fromstring(chart.svg()).iter(f"{SVG}text"):
        if (element.text or "").startswith("the window"):
            x, width = float(element.get("x", "")), 6.6 * len(element.text or "")
            start = x - width if "end" in element.get("class", "") else x
            spans.append((element.get("y"), start, start + width))
    assert len(spans) == 6
    for n, (row, start, end) in enumerate(spans):
        assert all(row != r or end < s or e < start for r, s, e in spans[:n])


def test_missing_numbers_break_the_line_and_leave_a_cell_empty() -> None:
    """What was not measured must not look measured."""
    root = ElementTree.fromstring(CHARTS["line"].svg())
    measured = [e for e in root.iter(f"{SVG}polyline") if "s0" in e.get("class", "")]
    assert [len(e.get("points", "").split()) for e in measured] == [2, 1]
    heat = ElementTree.fromstring(CHARTS["heat"].svg())
    cells = [e for e in heat.iter(f"{SVG}rect") if e.get("class") == "f0"]
    assert len(cells) == 3
    opacity = [float(e.get("opacity", "")) for e in cells]
    assert opacity[0] < opacity[2] < opacity[1]


def test_bars_are_as_long_as_their_numbers() -> None:
    """A bar of twice the number must be twice as long."""
    root = ElementTree.fromstring(CHARTS["bar"].svg())
    widths = [float(e.get("width", "")) for e in root.iter(f"{SVG}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.21, 0.29, [0.2, 0.22, 0.24, 0.26, 0.28, 0.3]),
        (3, 3, [3, 4, 5, 6]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    """Axes with numbers such as 0.2143, or points outside the plot."""
    assert ticks(low, high)[0] <= low and ticks(low, high)[-1] >= high
    if low != high:
        assert ticks(low, high) == pytest.approx(expected)


def test_log_ticks_and_their_words() -> None:
    """Powers that leave out the ends, or more of them than fit."""
    assert log_ticks(3, 100, 2) == [2, 4, 8, 16, 32, 64, 128]
    long = log_ticks(1e-30, 1, 10)
    assert len(long) <= 11 and long[0] <= 1e-30 and long[-1] >= 1
    words = [number(1024), number(0.25), number(2e6), number(1e-6, scientific=True)]
    assert words == ["1,024", "0.25", "2M", "1e-6"]


def test_a_table_is_the_same_on_a_terminal_and_in_a_page() -> None:
    """A cell that only one of them shows."""
    table = Table(("window", "bits < 1"), [("8", "0.25"), ("full", "0.2")], "per byte")
    lines = table.markdown().splitlines()
    assert lines[0] == "| window | bits < 1 |" and lines[1] == "| ------ | -------: |"
    assert lines[3] == "| full   |      0.2 |" and lines[-1] == "per byte"
    html = table.html()
    assert re.findall(r"<td>(.*?)</td>", html) == ["0.25", "0.2"]
    assert "bits &lt; 1" in html and "per byte" in html


def test_a_page_needs_no_network_and_no_script() -> None:
    """A page that is sent by mail, or opened in ten years, must look the same."""
    sections = [Section("A <question>?", ["Words & more", "two\nlines", *CHARTS.values()])]
    html = page("Title <t>", ["Opening"], sections)
    assert "<script" not in html and "src=" not in html and "@import" not in html
    links = re.findall(r"https?://[^\"' >]+", html)
    assert set(links) == {"http://www.w3.org/2000/svg"}  # the name of SVG, which nobody fetches
    assert 'href="#a-question"' in html and 'id="a-question"' in html
    assert "<pre>two\nlines</pre>" in html and "Words &amp; more" in html
    assert html.count("<svg") == len(CHARTS)


def test_pictures_are_written_as_png(tmp_path: Path) -> None:
    """A picture without text, because no font was found, or of one color."""
    pytest.importorskip("resvg_py", reason="the extra plots is not installed")
    image = pytest.importorskip("matplotlib.image", reason="the extra plots is not installed")
    write_png(tmp_path / "a.png", svg_file(CHARTS["line"]))
    pixels = image.imread(tmp_path / "a.png")
    assert pixels.shape[:2] == (600, 880)
    title = pixels[10:40, :300, :3].reshape(-1, 3)
    assert (title.sum(1) < 1.0).any() and (title.min(1) > 0.99).any()  # dark letters on white
