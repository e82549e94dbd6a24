"""Ten questions, answered by measurement: `python -m experiments.questions`

docs/questions.md is a page with gaps for numbers, each between two marks that no reader sees:

    W = 8 has <!--bpb sweep 8-->0.3712 (0.3690 to 0.3734)<!--/--> bits per byte.

This command fills the gaps and draws the pictures. It takes them from the JSON files in
docs/questions/, which the commands of the page have stored; --collect first copies these files from
runs/. A test fills the page again, so no number in it can differ from the measured ones.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from errors import ArgumentParser, UserError, command
from experiments.answers import NUMBERS, PICTURES, SOURCES, Stored, picture
from experiments.pages.page import svg_file
from storage import atomic_write

PAGE = Path(__file__).resolve().parent.parent / "docs/questions.md"
FOLDER = PAGE.with_suffix("")  # of results and pictures
GAP = re.compile(r"<!--([^/>][^>]*?)-->.*?<!--/-->", re.DOTALL)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Fill the page and write the pictures."""
    parser = ArgumentParser(
        prog="python -m experiments.questions",
        description="Fill in the numbers and pictures of docs/questions.md from stored results.",
        epilog="example: python -m experiments.questions",
    )
    parser.add_argument("--collect", metavar="RUNS", nargs="?", const="runs",
                        help="first copy the stored results from this folder (runs)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.collect is not None:
        collect(Path(arguments.collect), FOLDER)
    stored = Stored(FOLDER)
    text = fill(PAGE.read_text(encoding="utf-8"), stored)
    for name, content in pictures(stored).items():
        atomic_write(FOLDER / name, content.encode())
    atomic_write(PAGE, text.encode())
    print(f"filled: {PAGE}")
    return 0


def fill(text: str, stored: Stored) -> str:
    """Return the page with every gap filled. Raises `UserError` for a gap that has no number."""

    def number(gap: re.Match[str]) -> str:
        name, *words = gap[1].split()
        try:
            return f"<!--{gap[1]}-->{NUMBERS[name](stored, *words)}<!--/-->"
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
            raise UserError(
                f"{PAGE}: <!--{gap[1]}--> names no stored number ({error!r}): "
                "experiments/answers.py has the names"
            ) from None

    return GAP.sub(number, text)


def pictures(stored: Stored) -> dict[str, str]:
    """Return the content of each picture of the page, by its file name."""
    return {f"{name}.svg": svg_file(picture(stored, name)) for name in PICTURES}


def collect(runs: Path, folder: Path) -> None:
    """Copy the results that the commands of the page stored below `runs`.

    A result that is missing there stays as it is. Raises `UserError` if all are missing.
    """
    found = {name: runs / source for name, source in SOURCES.items() if (runs / source).is_file()}
    if not found:
        raise UserError(f"{runs} has no results: the commands of {PAGE.name} make them")
    folder.mkdir(exist_ok=True)
    for name, file in found.items():
        atomic_write(folder / f"{name}.json", file.read_bytes())
    for name in SOURCES.keys() - found.keys():
        print(f"note: {runs / SOURCES[name]} is missing: {name} stays as it is", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
