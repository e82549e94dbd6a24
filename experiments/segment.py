"""How many pieces does a vocabulary need? `python -m experiments.segment [CORPUS ...]`

Trains a tokenizer of each size on the training split of each text, cuts text that is held out, and
prints the bytes that a token stands for. A larger vocabulary makes shorter sequences, so that a
window reaches further back, at the price of larger tables and fewer examples of each piece. That
every text comes back from its tokens is checked on the way.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from configs.load import QUICKSTART, load_config
from configs.settings import Config
from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

SIZES = (512, 1024, 2048, 4096, 8192, 16384)
SOURCES = ("stories", "shakespeare")  # what is measured where nothing else is named
MEASURED = 5_000_000  # characters of held-out text
CHUNK = 1 << 20  # tokens read at once
# A token for each character there is: so the text can be split before its vocabulary is made.
PLAIN = ["tokenizer.type=char", "tokenizer.vocab_size=2000000"]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table in Markdown, and why cells are empty; 1 if a text did not come back."""
    parser = ArgumentParser(
        prog="python -m experiments.segment",
        description="Bytes per token by the size of the vocabulary, on text that is held out.",
        epilog="example: python -m experiments.segment stories notes/ --sizes 1024 --types bpe",
    )
    parser.add_argument("corpora", nargs="*", metavar="CORPUS",
                        help=f"{', '.join(SOURCES)}, a config (.yaml), or a file, folder or glob "
                        "of text (stories and shakespeare)")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="N",
                        help=f"pieces ({' '.join(map(str, SIZES))})")  # fmt: skip
    parser.add_argument("--types", nargs="+", default=["bpe", "unigram"],
                        choices=("bpe", "unigram", "char"), help="(bpe unigram)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if min(arguments.sizes) < 1:
        raise UserError(f"--sizes {min(arguments.sizes)}: give numbers of pieces from 1")
    configs = {name: _config(name) for name in arguments.corpora or SOURCES}
    notes: list[str] = []
    print("| corpus | type | " + " | ".join(f"{size:,}" for size in arguments.sizes) + " |")
    print("|---|---|" + "---:|" * len(arguments.sizes), flush=True)
    for name, config in configs.items():
        try:
            corpus = Splits(config)
        except UserError as error:
            if arguments.corpora:
                raise
            notes.append(f"{name}: {error}")  # it could not be fetched
            continue
        for type in arguments.types:
            cells = [_cell(corpus, name, type, size, notes) for size in arguments.sizes]
            print(f"| {name} | {type} | " + " | ".join(cells) + " |", flush=True)
    print("\nbytes per token of held-out text; tokenizers of the training split", *notes, sep="\n")
    return 1 if any("did not come back" in note for note in notes) else 0


def _config(name: str) -> Config:
    """Say what `name` stands for on the command line."""
    if name in SOURCES:
        return load_config(QUICKSTART, [f"data.source={name}", *PLAIN])
    if name.endswith((".yaml", ".yml")):
        return load_config(name, PLAIN)
    files = ["data.source=files", f"data.path={name}", "data.split=tail"]
    return load_config(QUICKSTART, [*files, *PLAIN])


class Splits:
    """The splits of a config's text, read back from its token shards: they say who gets what."""

    def __init__(self, config: Config) -> None:
        from data.text import open_text

        self._tokenizer, self._corpus = open_text(config.data, config.tokenizer)
        documents, length = [], 0
        for document in self.documents("val"):
            documents.append(document[: MEASURED - length])
            length += len(document)
            if length >= MEASURED:
                break
        self.held_out = documents

    def documents(self, split: str) -> Iterator[str]:
        """Yield the texts of a split, of which none is held longer than it is needed."""
        import numpy as np

        tokens: Any = self._corpus.tokens(split)
        rest: list[int] = []
        for start in range(0, len(tokens), CHUNK):
            chunk = np.asarray(tokens[start : start + CHUNK])
            before = 0
            for end in np.flatnonzero(chunk == self._tokenizer.eos_id).tolist():
                yield self._tokenizer.decode(rest + chunk[before:end].tolist())
                rest, before = [], end + 1
            rest += chunk[before:].tolist()


def _cell(corpus: Splits, name: str, type: str, size: int, notes: list[str]) -> str:
    """Train and measure; where that cannot be, give "-" and note the reason."""
    from data.tokenizer import Tokenizer
    from data.vocabulary import train_tokenizer

    try:
        model = train_tokenizer(corpus.documents("train"), type=type, vocab_size=size)
    except UserError as error:
        notes.append(f"{name}, {type}, {size:,}: {error}")
        return "-"
    n_bytes, tokens, lost = _measure(Tokenizer(model), corpus.held_out)
    if lost:
        notes.append(f"{name}, {type}, {size:,}: {lost:,} documents did not come back")
    return f"{n_bytes / tokens:.2f}" + ("!" if lost else "")


def _measure(tokenizer: "Tokenizer", documents: Sequence[str]) -> tuple[int, int, int]:
    """Cut documents; returns their bytes, their tokens, and how many did not come back."""
    n_bytes = tokens = lost = 0
    for text in documents:
        ids = tokenizer.encode(text)
        n_bytes += len(text.encode())
        tokens += len(ids)
        lost += tokenizer.decode(ids) != text
    return n_bytes, tokens, lost


if __name__ == "__main__":
    sys.exit(main())
