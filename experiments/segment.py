"""How large should a vocabulary be? `python -m experiments.segment [CORPUS ...]`

Trains a tokenizer of each size on the training split of each text, tokenizes the val split, and
prints the bytes per token. A larger vocabulary makes shorter sequences, so a window reaches further
back in the text; the price is a larger embedding and fewer occurrences of each piece. The tokens
are also decoded and compared with the text.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.load import QUICKSTART, load_config
from configs.settings import Config, keys_of
from errors import ArgumentParser, UserError, command, fields_named
from experiments.result import add_json, write_json

if TYPE_CHECKING:  # numpy and the tokenizer are imported only when a text is read
    from data.tokenizer import Tokenizer

SIZES = (512, 1024, 2048, 4096, 8192, 16384)
TYPES = ("bpe", "unigram", "char")
SOURCES = ("stories", "shakespeare")  # measured if no corpus is named
MEASURED = 5_000_000  # characters of the val split that are tokenized
BLOCK = 1 << 20  # tokens read at once
# One token per character: the text is split and stored before its vocabularies are trained.
CHARACTERS = ["tokenizer.type=char", "tokenizer.vocab_size=2000000"]


@dataclass(frozen=True)
class Cell:
    """A tokenizer and what it does with the val split."""

    corpus: str
    type: str
    vocab_size: int
    bytes_per_token: float | None  # None: there is no such tokenizer
    lost_documents: int = 0  # documents that decoding does not restore
    reason: str | None = None  # why there is no such tokenizer


@dataclass(frozen=True)
class SegmentResult:
    """All cells of the table, and the corpora that cannot be read: name -> reason."""

    cells: list[Cell]
    skipped: dict[str, str]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table in Markdown, then the reasons of empty cells; 1 if a text is not restored."""
    arguments = _parser().parse_args(argv)
    if min(arguments.sizes) < 1:
        raise UserError(f"--sizes {min(arguments.sizes)}: give numbers of pieces from 1")
    configs = {name: _config(name) for name in arguments.corpora or SOURCES}
    result = SegmentResult([], {})
    print("| corpus | type | " + " | ".join(f"{size:,}" for size in arguments.sizes) + " |")
    print("|---|---|" + "---:|" * len(arguments.sizes), flush=True)
    for name, config in configs.items():
        try:
            with fields_named(_names(name)):
                texts = SplitTexts(config)
        except UserError as error:
            if arguments.corpora:
                raise
            result.skipped[name] = str(error)  # a default corpus that cannot be downloaded
            continue
        for type in arguments.types:
            row = [_measure(texts, name, type, size) for size in arguments.sizes]
            print(f"| {name} | {type} | " + " | ".join(map(_text, row)) + " |", flush=True)
            result.cells.extend(row)
    legend = "\nbytes per token of held-out text; tokenizers of the training split"
    print(legend, *_notes(result), sep="\n")
    write_json(arguments.json, result)
    return 1 if any(cell.lost_documents for cell in result.cells) else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.segment",
        description="Measure bytes per token of held-out text, by the size of the vocabulary.",
        epilog="example: python -m experiments.segment stories --sizes 1024 4096 --types bpe",
    )
    parser.add_argument("corpora", nargs="*", metavar="CORPUS",
                        help=f"{', '.join(SOURCES)}, a config (.yaml), or a file, folder or glob "
                        "of text (stories and shakespeare)")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="N",
                        help=f"sizes of vocabularies ({' '.join(map(str, SIZES))})")  # fmt: skip
    parser.add_argument("--types", nargs="+", default=["bpe", "unigram"], choices=TYPES,
                        help="types of tokenizers (bpe unigram)")  # fmt: skip
    add_json(parser)
    return parser


def _config(name: str) -> Config:
    """Return the config of a CORPUS of the command line."""
    if name in SOURCES:
        return load_config(QUICKSTART, [f"data.source={name}", *CHARACTERS])
    if name.endswith((".yaml", ".yml")):
        return load_config(name, CHARACTERS)
    files = ["data.source=files", f"data.path={name}", "data.split=tail"]
    return load_config(QUICKSTART, [*files, *CHARACTERS])


def _names(corpus: str) -> dict[str, str]:
    """Return what the user wrote, by field: keys of a config, or CORPUS itself."""
    is_config = corpus.endswith((".yaml", ".yml"))
    return keys_of("data", "tokenizer") if is_config else {"path": "CORPUS"}


class SplitTexts:
    """The documents of each split of a text, decoded from its token shards."""

    def __init__(self, config: Config) -> None:
        """Raises `UserError` if the text cannot be read or split."""
        from data.text import open_text

        self._tokenizer, self._corpus = open_text(config.data, config.tokenizer)
        self.val: list[str] = []  # its first `MEASURED` characters
        missing = MEASURED
        for document in self.documents("val"):
            self.val.append(document[:missing])
            missing -= len(document)
            if missing <= 0:
                break

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split; memory holds one block and one document."""
        import numpy as np

        tokens: Any = self._corpus.tokens(split)
        rest: list[int] = []
        for start in range(0, len(tokens), BLOCK):
            block = np.asarray(tokens[start : start + BLOCK])
            before = 0
            for end in np.flatnonzero(block == self._tokenizer.eos_id).tolist():
                yield self._tokenizer.decode(rest + block[before:end].tolist())
                rest, before = [], end + 1
            rest += block[before:].tolist()


def _measure(texts: SplitTexts, corpus: str, type: str, size: int) -> Cell:
    """Train a tokenizer on the training split and tokenize the val split with it."""
    from data.tokenizer import open_tokenizer
    from data.vocabulary import train_tokenizer

    try:
        with fields_named({"vocab_size": "--sizes"}):
            model = train_tokenizer(texts.documents("train"), type=type, vocab_size=size)
        tokenizer = open_tokenizer(model)
    except UserError as error:
        return Cell(corpus, type, size, None, reason=str(error))
    if type != "char" and tokenizer.vocab_size < size:
        reason = f"the text allows {tokenizer.vocab_size:,} tokens at most"
        return Cell(corpus, type, size, None, reason=reason)
    n_bytes, n_tokens, lost = _tokenize(tokenizer, texts.val)
    return Cell(corpus, type, size, n_bytes / n_tokens, lost)


def _tokenize(tokenizer: "Tokenizer", documents: Sequence[str]) -> tuple[int, int, int]:
    """Return the bytes and the tokens of documents, and how many decoding does not restore."""
    n_bytes = n_tokens = lost = 0
    for text in documents:
        ids = tokenizer.encode(text)
        n_bytes += len(text.encode())
        n_tokens += len(ids)
        lost += tokenizer.decode(ids) != text
    return n_bytes, n_tokens, lost


def _text(cell: Cell) -> str:
    if cell.bytes_per_token is None:
        return "-"
    return f"{cell.bytes_per_token:.2f}" + ("!" if cell.lost_documents else "")


def _notes(result: SegmentResult) -> Iterator[str]:
    """Yield the reasons of skipped corpora and empty cells, and the losses."""
    for name, reason in result.skipped.items():
        yield f"{name}: {reason}"
    for cell in result.cells:
        name = f"{cell.corpus}, {cell.type}, {cell.vocab_size:,}"
        if cell.reason:
            yield f"{name}: {cell.reason}"
        if cell.lost_documents:
            yield f"{name}: {cell.lost_documents:,} documents are not restored"


if __name__ == "__main__":
    sys.exit(main())
