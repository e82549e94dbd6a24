"""Does the exported tokenizer.json encode as ours? `python -m interop.tokenizer_agreement RUN`

Each of 10,000 texts (interop/tokenizer_samples.py) is encoded by our tokenizer, by transformers'
AutoTokenizer from the exported files, and by the library `tokenizers` from tokenizer.json alone.
The last does not read tokenizer_config.json, so there a text that spells a special token gives
that token.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.tokenizer import Tokenizer, open_tokenizer
from errors import ArgumentParser, UserError, command
from interop.check import require_transformers
from interop.tokenizer_json import tokenizer_files
from interop.tokenizer_samples import KINDS, draw_samples
from storage import atomic_write

SAMPLES = 10_000
ALIKE, SPELLED, OTHER = "alike", "special spelled", "other pieces"


@dataclass(frozen=True)
class Agreement:
    """How many texts of one kind are encoded as ours does, and how the others differ."""

    kind: str
    auto: Counter[str] = field(default_factory=Counter)  # by AutoTokenizer: ALIKE, SPELLED, OTHER
    alone: Counter[str] = field(default_factory=Counter)  # by tokenizer.json alone
    restored: int = 0  # texts that AutoTokenizer decodes exactly, from its own ids

    def __add__(self, other: "Agreement") -> "Agreement":
        """Return the sums, under this row's name."""
        return Agreement(
            self.kind,
            self.auto + other.auto,
            self.alone + other.alone,
            self.restored + other.restored,
        )


def agreements(tokenizer: Tokenizer, samples: int, seed: int) -> Iterator[Agreement]:
    """Compare on `samples` texts, equally many of each kind; yield one row for each kind.

    Raises `UserError` if transformers is missing.
    """
    transformers = require_transformers()
    import tokenizers

    with tempfile.TemporaryDirectory() as folder:
        for name, content in tokenizer_files(tokenizer).items():
            atomic_write(Path(folder) / name, content)
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        alone = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    for kind in KINDS:
        texts = draw_samples(kind, samples // len(KINDS), seed)
        yield _compare(kind, texts, tokenizer, auto, alone)


def _compare(
    kind: str, texts: Sequence[str], tokenizer: Tokenizer, auto: Any, alone: Any
) -> Agreement:
    specials = alone.get_added_tokens_decoder().keys()
    by_auto, by_alone, restored = Counter[str](), Counter[str](), 0
    for text in texts:
        ours, ids = tokenizer.encode_prompt(text), auto(text)["input_ids"]
        by_auto[_difference(ours, ids, specials)] += 1
        by_alone[_difference(ours, alone.encode(text).ids, specials)] += 1
        restored += auto.decode(ids, skip_special_tokens=True) == text
    return Agreement(kind, by_auto, by_alone, restored)


def _difference(ours: Sequence[int], ids: Sequence[int], specials: Set[int]) -> str:
    if ours == ids:
        return ALIKE
    return SPELLED if specials & set(ids[1:]) else OTHER


def table(rows: Sequence[Agreement]) -> str:
    """Return the rows and their sum as a table in Markdown; a cell counts texts."""
    kinds = (ALIKE, SPELLED, OTHER)
    heads = ["texts", "drawn", *(f"transformers: {kind}" for kind in kinds), "restored"]
    heads += [f"tokenizer.json: {kind}" for kind in kinds]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in [*rows, sum(rows, Agreement("all"))]:
        auto, alone = ([found[kind] for kind in kinds] for found in (row.auto, row.alone))
        cells = [row.auto.total(), *auto, row.restored, *alone]
        lines.append(f"| {row.kind} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if AutoTokenizer does not restore a text."""
    parser = ArgumentParser(
        prog="python -m interop.tokenizer_agreement",
        description="Count the texts that an exported tokenizer.json encodes as ours, by kind.",
        epilog="example: python -m interop.tokenizer_agreement runs/quickstart",
    )
    parser.add_argument("tokenizer", metavar="RUN", help="a run's folder, or a tokenizer.model")
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help="texts (10,000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other texts (0)")
    arguments = parser.parse_args(argv)
    if arguments.samples < len(KINDS):
        raise UserError(
            f"--samples is {arguments.samples}: at least one of each kind, {len(KINDS)}"
        )
    path = Path(arguments.tokenizer)
    if path.is_dir():
        path /= "tokenizer.model"
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a tokenizer.model or a run that has one")
    rows = list(agreements(open_tokenizer(path.read_bytes()), arguments.samples, arguments.seed))
    print(table(rows))
    return int(any(row.restored < row.auto.total() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
