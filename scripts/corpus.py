"""What is in the text, and would it train well? `python -m scripts.corpus [CONFIG]`

Reads every document of a config's text, cuts it into tokens as training would, and prints what is
there, some of it, and what usually makes a training silently bad: documents that come twice, empty
ones, bytes that were no text, a split too small to measure anything.
"""

import hashlib
import lzma
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from configs import schema
from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from data.prepare import Corpus
    from data.sources import Document

SPLITS = ("train", "val", "test")
COMPRESSED = 20_000_000  # bytes of the text that are compressed, from its beginning
FEW = 20_000  # tokens; the loss on fewer says little
LONG_LINE = 100_000  # characters; text has none, dumps of data have


@dataclass
class Census:
    """What was counted in a pass over the documents."""

    documents: int = 0
    n_bytes: int = 0
    seconds: float = 0.0  # to get them
    longest: tuple[int, str] = (0, "")  # bytes, name
    words: set[str] = field(default_factory=set)
    repeated: int = 0
    empty: int = 0
    damaged: int = 0  # documents with U+FFFD, which stands for bytes that were no text
    long_lines: int = 0
    shown: list[str] = field(default_factory=list)
    beginning: bytearray = field(default_factory=bytearray)

    @property
    def xz_ratio(self) -> float:
        """Compressed by original size: how much there is to learn, besides repetition."""
        return len(lzma.compress(bytes(self.beginning), preset=9)) / max(1, len(self.beginning))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the documents, the figures, and the warnings; exit code 0 whatever they say."""
    parser = ArgumentParser(
        prog="python -m scripts.corpus",
        description="Show what is in a text, and check it before training.",
        epilog="example: python -m scripts.corpus data.source=files data.path=notes/ --show 2",
    )
    parser.add_argument("words", nargs="*", metavar="[CONFIG] [section.key=value ...]",
                        help=f"a YAML file (default {schema.QUICKSTART}) and changes")  # fmt: skip
    parser.add_argument("--show", type=int, default=1, help="documents to print, from the first")
    arguments = parser.parse_args(argv)
    if arguments.show < 0:
        raise UserError(f"--show is {arguments.show}: print 0 documents or more")
    config = schema.load_config(*schema.split_arguments(arguments.words))

    from data.sources import open_source
    from run import open_text

    data = config.data
    source = open_source(data.source, path=data.path, field=data.field, stories=data.stories)
    census = _count(source.documents(), arguments.show)
    for number, text in enumerate(census.shown):
        print(f"--- document {number}\n{text}\n")
    print(f"documents        {census.documents:,}, {census.n_bytes:,} bytes, read at "
          f"{census.n_bytes / 1e6 / census.seconds:.1f} MB/s")  # fmt: skip
    print(f"longest          {census.longest[0]:,} bytes: {census.longest[1]}")
    print(f"distinct words   {len(census.words):,}")
    print(f"come twice       {census.repeated:,} documents")
    print(f"xz ratio         {census.xz_ratio:.4f} of the first "
          f"{len(census.beginning) / 1e6:.1f} MB")  # fmt: skip
    _, corpus = open_text(config)
    for split in SPLITS:
        if tokens := corpus.n_tokens(split):
            per_token = corpus.n_bytes(split) / tokens
            print(f"{split:16} {tokens:,} tokens of {per_token:.2f} bytes")
    train = config.train
    step = train.micro_batch_size * train.grad_accum_steps * data.seq_len
    print(f"training         {train.max_steps:,} steps of {step:,} tokens: "
          f"{train.max_steps * step / corpus.n_tokens('train'):.2f} epochs")  # fmt: skip
    warnings = list(_warnings(census, corpus, data.seq_len))
    print("\n".join(f"look at this     {warning}" for warning in warnings) or "nothing is amiss")
    return 0


def _count(documents: "Iterator[Document]", show: int) -> Census:
    """Pass over the documents once."""
    from tqdm import tqdm

    census, seen = Census(), set()
    bar = tqdm(desc="reading", unit="B", unit_scale=True, leave=False, disable=None)
    start = time.perf_counter()
    for document in documents:
        census.seconds += time.perf_counter() - start
        text = document.text
        content = text.encode("utf-8", "surrogatepass")
        bar.update(len(content))
        digest = hashlib.blake2b(content, digest_size=12).digest()
        census.repeated += digest in seen
        seen.add(digest)
        census.documents += 1
        census.n_bytes += len(content)
        census.longest = max(census.longest, (len(content), document.name))
        census.words.update(re.findall(r"[^\W\d_]+", text.lower()))
        census.empty += not text.strip()
        census.damaged += "\ufffd" in text
        census.long_lines += max(map(len, text.split("\n"))) > LONG_LINE
        if len(census.shown) < show:
            census.shown.append(text)
        if len(census.beginning) < COMPRESSED:
            census.beginning += content
        start = time.perf_counter()
    bar.close()
    return census


def _warnings(census: Census, corpus: "Corpus", seq_len: int) -> Iterator[str]:
    """Name what makes trainings silently bad."""
    if census.repeated:
        yield f"{census.repeated:,} documents come twice: what is held out may stand in training"
    if census.empty:
        yield f"{census.empty:,} documents are empty"
    if census.damaged:
        yield f"{census.damaged:,} documents have U+FFFD: their bytes were not what they seemed"
    if census.long_lines:
        yield f"{census.long_lines:,} documents have lines of {LONG_LINE:,} characters: is it text?"
    for split in ("val", "test"):
        if 0 < corpus.n_tokens(split) < FEW:
            yield f"{split} has {corpus.n_tokens(split):,} tokens: its loss will be noisy"
    if corpus.n_tokens("train") < 100 * seq_len:
        yield f"fewer than 100 windows of {seq_len:,} tokens to train on"


if __name__ == "__main__":
    sys.exit(main())
