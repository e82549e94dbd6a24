"""A table: printed as Markdown on a terminal, as HTML in a page. Both from the same cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column names the row; the others are numbers, aligned right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""  # what the numbers are, with units, seeds and interval

    def markdown(self) -> str:
        """Return the table in Markdown, its columns aligned, and the caption below it."""
        widths = [max(3, *map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [self.header, rule, *self.rows]
        text = "\n".join(
            "| " + " | ".join(
                cell.ljust(width) if n == 0 else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            ) + " |"
            for line in lines
        )  # fmt: skip
        return f"{text}\n\n{self.caption}" if self.caption else text

    def html(self) -> str:
        """Return the table in HTML, in a box that scrolls sideways on a narrow screen."""
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.header)
        body = "\n".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        caption = f'\n<p class="soft">{escape(self.caption)}</p>' if self.caption else ""
        return (
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>{caption}"
        )
