"""One self-contained HTML page, without network or script: for wide and narrow screens, and print.

On a dark screen its colors are dark.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from experiments.pages.charts import Chart, Drawing
from experiments.pages.style import FILE_STYLE, PAGE_STYLE
from experiments.pages.table import Table
from experiments.result import About


@dataclass(frozen=True)
class Details:
    """A long text that a page shows when a reader opens it."""

    summary: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a page about one experiment: its question, what was found, and how it was made."""

    title: str
    parts: Sequence[str | Table | Details | Chart]  # in reading order; a text is a paragraph
    about: About | None = None

    @property
    def anchor(self) -> str:
        """The name that a link inside the page has."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")

    @property
    def charts(self) -> list[Chart]:
        """The charts among the parts."""
        return [part for part in self.parts if not isinstance(part, str | Table | Details)]


def page(title: str, introduction: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole page as HTML."""
    links = "\n".join(
        f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in sections
    )
    body = "\n".join(map(_section, sections))
    opening = "\n".join(map(_paragraph, introduction))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{PAGE_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{opening}
<nav><ul>
{links}
</ul></nav>
{body}
</main>
</body>
</html>
"""


def svg_file(chart: Chart) -> str:
    """Return a chart as the content of an SVG file, with its colors inside."""
    opening, _, rest = chart.svg().partition("\n")
    paper = '<rect class="paper" width="100%" height="100%"/>'
    return f"{opening}\n<style>{FILE_STYLE}</style>\n{paper}\n{rest}\n"


def _section(section: Section) -> str:
    """Return a section; charts that follow each other stand beside each other on a wide screen."""
    parts: list[str] = []
    charts: list[str] = []
    for part in [*section.parts, ""]:
        if isinstance(part, str | Table | Details):
            if charts:
                parts.append('<div class="charts">' + "\n".join(charts) + "</div>")
                charts = []
            parts.append(_block(part))
        else:
            charts.append(_figure(part))
    about = "" if section.about is None else _about(section.about)
    content = "\n".join(filter(None, parts))
    return (
        f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n{content}\n{about}\n'
        "</section>"
    )


def _block(part: str | Table | Details) -> str:
    if isinstance(part, Table):
        return part.html()
    if isinstance(part, Details):
        summary, text = escape(part.summary), escape(part.text)
        return f"<details><summary>{summary}</summary><pre>{text}</pre></details>"
    return _paragraph(part)


def _paragraph(text: str) -> str:
    """Return a paragraph, or a block of fixed width if the text has several lines."""
    if not text:
        return ""
    tag = "pre" if "\n" in text else "p"
    return f"<{tag}>{escape(text)}</{tag}>"


def _figure(chart: Chart) -> str:
    wide = ' class="wide"' if isinstance(chart, Drawing) else ""
    caption = f"<figcaption>{escape(chart.caption)}</figcaption>" if chart.caption else ""
    return f"<figure{wide}>\n{chart.svg()}\n{caption}</figure>"


def _about(about: About) -> str:
    """Return the command, the machine and the time behind a section."""
    quick = ", with --quick: fewer measurements than the default" if about.quick else ""
    return (
        f"<details><summary>How this was made</summary><pre>{escape(about.command)}</pre>"
        f'<p class="soft">{escape(about.date)} UTC, {about.seconds:,.0f} s{quick}, on '
        f"{escape(str(about.machine))}</p></details>"
    )
