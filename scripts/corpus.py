"""What is in the text, and would it train well? `python -m scripts.corpus [CONFIG]`

Reads every document of a config's text, cuts it into tokens as training would, and prints what is
there, some of it, how long training would take, and what usually makes a training silently bad:
text that comes twice or is held out and trained on, text that is none, a vocabulary or a window
that does not fit the text, epochs without end.
"""

import contextlib
import hashlib
import lzma
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.load import QUICKSTART, load_config, split_arguments
from configs.settings import Config, model_config
from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data.documents import Document

SPLITS = ("train", "val", "test")
EXCERPT = 2_000  # characters of a document that are shown
COMPRESSED = 20_000_000  # bytes of the text that are compressed, from its beginning
KEPT = 300_000  # different lines that are counted, and words: memory has an end
LINE = 200  # characters by which lines are told apart
CHUNK = 1 << 20  # tokens looked at at once
WARM, TIMED = 3, 5  # updates, at least and at most; the fastest counts: the first take longer
TIME = 15  # seconds after which no more than `WARM` are begun

# Where the warnings begin.
RARE = 0.001  # share of documents with a flaw that is borne
MARKED = 0.05  # share of documents with HTML that is borne
LONG_LINE = 100_000  # characters; text has none, dumps of data have
BOILERPLATE = 0.02  # of the text is one line
FEW = 20_000  # tokens; the loss on fewer says little
EPOCHS = 4  # text read more often than that teaches less and less (arXiv 2305.16264)
SEEN, UNSEEN = 10, 0.35  # a piece needs that many places to be learnt; share of pieces without
SPELLED = 0.02  # of the tokens are bytes of characters that the vocabulary lacks

_TAGS = "a|body|br|div|h[1-6]|head|html|img|li|p|script|span|style|t[dr]|ul"
_TAG = re.compile(rf"</?(?:{_TAGS})\b[^<>]*>", re.IGNORECASE)
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# UTF-8 that was read as Latin-1 or Windows-1252: "Ã©" for "é", "â€œ" for a quotation mark.
_MISREAD = re.compile("[\u00c2\u00c3][\u0080-\u00aa\u00ac-\u00ba\u0192\u02c6\u2020-\u2021\u2030]|"
                      "\u00e2[\u0080\u20ac]")  # fmt: skip


class Flaw(NamedTuple):
    """What is wrong with a document, and the share of documents that may have it."""

    words: str
    found: Callable[[str], Any]
    borne: float = RARE


FLAWS = (
    Flaw("are empty", lambda text: not text.strip()),
    Flaw("have U+FFFD: their bytes were not what they seemed", lambda text: "\ufffd" in text),
    Flaw("have control characters: is it text?", _CONTROL.search),
    Flaw("have UTF-8 read as Latin-1, such as \u00c3\u00a9: read it as UTF-8", _MISREAD.search),
    Flaw("have HTML tags: take them out, or it is HTML that is learnt",
         lambda text: len(_TAG.findall(text)) > 2, MARKED),
    Flaw(f"have lines of {LONG_LINE:,} characters: is it text?",
         lambda text: max(map(len, text.split("\n"))) >= LONG_LINE),
)  # fmt: skip


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print some documents, the figures, and the warnings; exit code 0 whatever they say."""
    parser = ArgumentParser(
        prog="python -m scripts.corpus",
        description="Show what is in a text, and check it before training.",
        epilog="example: python -m scripts.corpus data.source=files data.path=notes/ --show 2",
    )
    parser.add_argument("words", nargs="*", metavar="[CONFIG] [section.key=value ...]",
                        help=f"a YAML file (default {QUICKSTART}) and changes")  # fmt: skip
    parser.add_argument("--show", type=int, default=1, help="documents to print, of all parts (1)")
    parser.add_argument("--no-time", action="store_true", help="do not time updates of the model")
    arguments = parser.parse_args(argv)
    if arguments.show < 0:
        raise UserError(f"--show is {arguments.show}: print 0 documents or more")
    config = load_config(*split_arguments(arguments.words))

    from data.text import open_sources, open_text

    opened = open_sources(config.data)
    tokenizer, corpus = open_text(config.data, config.tokenizer, sources=opened)
    sources = opened.values()
    census = Census(show=arguments.show, expected=sum(map(corpus.n_documents, SPLITS)))
    census.read(chain.from_iterable(source.documents() for source in sources),
                sum(map(corpus.n_bytes, SPLITS)))  # fmt: skip
    print("".join(census.shown), end="")
    print_rows(census.rows())
    cut = {split: _cut(corpus.tokens(split), tokenizer.vocab_size, tokenizer.bos_id)
           for split in SPLITS}  # fmt: skip
    print_rows(_token_rows(config, corpus, cut))
    if not arguments.no_time:
        print_rows([("time", _training_time(config, corpus))])
    warnings = [*census.warnings(), *_token_warnings(config, cut)]
    print("\n".join(f"look at this     {warning}" for warning in warnings) or "nothing is amiss")
    return 0


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and what is to be said of them, in two columns."""
    for name, text in rows:
        print(f"{name:16} {text}", flush=True)


# ---------------------------------------------------------------------------- the text


@dataclass
class Census:
    """What is counted in a pass over the documents; `show` of the `expected` are kept to look at,
    the first and others at equal distances."""

    show: int = 0
    expected: int = 1
    documents: int = 0
    n_bytes: int = 0
    characters: int = 0
    seconds: float = 0.0  # to get them
    longest: tuple[int, str] = (0, "")  # bytes, name
    repeated: int = 0
    alike: int = 0  # as another, but for case and spaces
    flaws: Counter[Flaw] = field(default_factory=Counter)
    words: set[str] = field(default_factory=set)
    lines: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    beginning: bytearray = field(default_factory=bytearray)
    _seen: set[bytes] = field(default_factory=set)  # 12 bytes of a hash for each document
    _seen_alike: set[bytes] = field(default_factory=set)

    def read(self, documents: "Iterable[Document]", n_bytes: int) -> None:
        """Pass over documents of about `n_bytes` in all, once."""
        from tqdm import tqdm

        with tqdm(desc="reading", total=n_bytes, unit="B", unit_scale=True, leave=False,
                  disable=None) as bar:  # fmt: skip
            start = time.perf_counter()
            for document in documents:
                self.seconds += time.perf_counter() - start
                before = self.n_bytes
                self.add(document)
                bar.update(self.n_bytes - before)
                start = time.perf_counter()

    def add(self, document: "Document") -> None:
        """Count one document."""
        text = document.text
        content = text.encode("utf-8", "replace")
        due = self.documents * self.show >= len(self.shown) * self.expected
        if due and len(self.shown) < self.show:
            self.shown.append(_excerpt(self.documents, document))
        self.documents += 1
        self.n_bytes += len(content)
        self.characters += len(text)
        self.longest = max(self.longest, (len(content), document.name))
        self._compare(content, " ".join(text.lower().split()).encode("utf-8", "replace"))
        self.flaws.update(flaw for flaw in FLAWS if flaw.found(text))
        if len(self.words) < KEPT:
            self.words.update(re.findall(r"[^\W\d_]+", text.lower()))
        lines = (line.strip()[:LINE] for line in text.split("\n"))
        known = filter(self.lines.__contains__, lines) if len(self.lines) >= KEPT else lines
        self.lines.update(known)
        if len(self.beginning) < COMPRESSED:
            self.beginning += content

    def _compare(self, content: bytes, plain: bytes) -> None:
        """Count a text that was there before, or was there in other case or spacing."""
        digests = [hashlib.blake2b(form, digest_size=12).digest() for form in (content, plain)]
        if digests[0] in self._seen:
            self.repeated += 1
        elif digests[1] in self._seen_alike:
            self.alike += 1
        self._seen.add(digests[0])
        self._seen_alike.add(digests[1])

    @property
    def xz_ratio(self) -> float:
        """Compressed by original size: how much there is to learn, besides repetition."""
        return len(lzma.compress(bytes(self.beginning), preset=9)) / max(1, len(self.beginning))

    @property
    def commonest_line(self) -> tuple[str, int, float]:
        """Of the lines that come again the one that takes the most of the text, how often it comes,
        and its share."""
        again = ((line, count) for line, count in self.lines.items() if count > 1)
        line, count = max(again, key=lambda item: len(item[0]) * item[1], default=("", 0))
        return line, count, len(line) * count / max(1, self.characters)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Say what was counted."""
        speed = self.n_bytes / 1e6 / max(self.seconds, 1e-9)
        more = "more than " if len(self.words) >= KEPT else ""
        _, count, share = self.commonest_line
        yield "documents", f"{self.documents:,}, {self.n_bytes:,} bytes, read at {speed:.1f} MB/s"
        yield "longest", f"{self.longest[0]:,} bytes: {_plain(self.longest[1])}"
        yield "distinct words", f"{more}{len(self.words):,}"
        yield "come twice", f"{self.repeated:,} documents; {self.alike:,} but for case and spaces"
        yield "commonest line", f"{share:.2%} of the text, {count:,} times"
        size = len(self.beginning) / 1e6
        yield "xz ratio", f"{self.xz_ratio:.4f} of the first {size:.1f} MB"

    def warnings(self) -> Iterator[str]:
        """Name what is wrong with the text."""
        if self.repeated > RARE * self.documents:
            yield f"{self.repeated:,} documents come twice: leave one of each"
        if self.alike > RARE * self.documents:
            yield f"{self.alike:,} documents differ from another in case and spaces only"
        for flaw in FLAWS:
            if self.flaws[flaw] > flaw.borne * self.documents:
                yield f"{self.flaws[flaw]:,} documents {flaw.words}"
        line, count, share = self.commonest_line
        if share > BOILERPLATE and count >= SEEN:
            yield f"one line is {share:.0%} of the text, {count:,} times: {_plain(line[:60])}"


def _excerpt(number: int, document: "Document") -> str:
    text = document.text
    more = f"\n[... {len(text):,} characters in all]" if len(text) > EXCERPT else ""
    return f"--- document {number}: {_plain(document.name)}\n{_plain(text[:EXCERPT])}{more}\n\n"


def _plain(text: str) -> str:
    """Keep from the terminal what it might obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


# ---------------------------------------------------------------------------- the tokens


class Cut(NamedTuple):
    """A split as tokens."""

    counts: "NDArray"  # how often each id of the vocabulary comes
    lengths: list[int]  # tokens of each document, its <s> and </s> too
    digests: list[bytes]  # of each document: equal where the text is


def _cut(tokens: Any, vocab_size: int, bos_id: int) -> Cut:
    """Count the tokens of a split, a chunk at a time."""
    import numpy as np
    from tqdm import tqdm

    cut = Cut(np.zeros(vocab_size, np.int64), [], [])
    digest, length = hashlib.blake2b(digest_size=12), 0
    for start in tqdm(range(0, len(tokens), CHUNK), "counting", leave=False, disable=None):
        chunk = np.asarray(tokens[start : start + CHUNK])
        cut.counts[:] += np.bincount(chunk, minlength=vocab_size)
        edges = {0, *np.flatnonzero(chunk == bos_id).tolist(), len(chunk)}
        for first, stop in pairwise(sorted(edges)):
            if length and chunk[first] == bos_id:
                cut.lengths.append(length)
                cut.digests.append(digest.digest())
                digest, length = hashlib.blake2b(digest_size=12), 0
            digest.update(chunk[first:stop].tobytes())
            length += stop - first
    if length:
        cut.lengths.append(length)
        cut.digests.append(digest.digest())
    return cut


def _token_rows(config: Config, corpus: Any, cut: dict[str, Cut]) -> Iterator[tuple[str, str]]:
    """Say how the text was cut, and what training makes of it."""
    from data.tokenizer import FIRST_PIECE

    for split in SPLITS:
        if tokens := corpus.n_tokens(split):
            yield split, f"{tokens:,} tokens of {corpus.n_bytes(split) / tokens:.2f} bytes"
    lengths = sorted(chain.from_iterable(cut[split].lengths for split in SPLITS))
    low, middle, high = (lengths[len(lengths) * tenths // 10] for tenths in (1, 5, 9))
    seq_len = config.data.seq_len
    yield "a document", (f"{middle:,} tokens (median), 10% below {low:,}, 10% above {high:,}; "
                         f"data.seq_len holds {seq_len / middle:,.2g} of the median")  # fmt: skip
    pieces = cut["train"].counts[FIRST_PIECE:]
    spelled = cut["train"].counts[3:FIRST_PIECE].sum() / corpus.n_tokens("train")
    yield "pieces", (f"{(pieces > 0).sum():,} of {len(pieces):,} are used in training, "
                     f"{(pieces >= SEEN).sum():,} of them {SEEN} times")  # fmt: skip
    new = cut["val"].counts[cut["train"].counts == 0].sum() / max(1, corpus.n_tokens("val"))
    yield "spelled in bytes", f"{spelled:.3%} of the tokens; {new:.3%} of val are new to training"
    train = config.train
    yield "training", (f"{train.max_steps:,} steps of {config.tokens_per_step:,} tokens: "
                       f"{_epochs(config, corpus.n_tokens('train')):.2f} epochs")  # fmt: skip


def _epochs(config: Config, tokens: int) -> float:
    return config.train.max_steps * config.tokens_per_step / max(1, tokens)


def _token_warnings(config: Config, cut: dict[str, Cut]) -> Iterator[str]:
    """Name what does not fit between the text, the tokenizer and the training."""
    from data.tokenizer import FIRST_PIECE

    seq_len, trained = config.data.seq_len, set(cut["train"].digests)
    for split in ("val", "test"):
        both = sum(digest in trained for digest in cut[split].digests)
        if both:
            yield (f"{both:,} of {len(cut[split].digests):,} documents of {split} stand in "
                   "training, word for word: their loss says nothing")  # fmt: skip
        if 0 < (tokens := sum(cut[split].lengths)) < FEW:
            yield f"{split} has {tokens:,} tokens: its loss will be noisy"
    counts, tokens = cut["train"].counts, sum(cut["train"].lengths)
    if tokens < 100 * seq_len:
        yield f"fewer than 100 sequences of {seq_len:,} tokens to train on"
    if (epochs := _epochs(config, tokens)) > EPOCHS and not config.train.patience:
        yield (f"training reads the text {epochs:.1f} times: after some {EPOCHS} it is learnt by "
               "heart; give more text, fewer train.max_steps, or train.patience")  # fmt: skip
    rare = (counts[FIRST_PIECE:] < SEEN).mean()
    if rare > UNSEEN:
        yield (f"{rare:.0%} of the pieces come less than {SEEN} times in training: "
               f"tokenizer.vocab_size is {len(counts):,}, make it smaller")  # fmt: skip
    if (spelled := counts[3:FIRST_PIECE].sum() / tokens) > SPELLED:
        yield (f"{spelled:.0%} of the tokens are bytes of characters that the vocabulary lacks: "
               "make tokenizer.vocab_size larger")  # fmt: skip
    middle = statistics.median(cut["train"].lengths)
    if middle < seq_len:
        yield (f"most documents are shorter than data.seq_len ({seq_len:,} tokens), half have less "
               f"than {middle:,.0f}: a sequence holds several unrelated ones")  # fmt: skip


# ---------------------------------------------------------------------------- the time


def _training_time(config: Config, corpus: Any) -> str:
    """Estimate how long training would take on this machine, from a few updates of a model that is
    thrown away."""
    from model.cost import training_memory

    shape = model_config(config, config.tokenizer.vocab_size)
    train, seq_len = config.train, config.data.seq_len
    needed = training_memory(shape, train.micro_batch_size, seq_len, train.optimizer, 4).total
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * there:
        return f"not measured: training needs some {needed / 1e9:,.0f} GB of {there / 1e9:,.0f} GB"
    step, device = _time_updates(config, corpus)
    evaluations = -(-train.max_steps // train.eval_interval)
    evaluated = corpus.n_tokens("val") / config.tokens_per_step / 3  # forward only: a third
    total = step * (train.max_steps + evaluations * evaluated)
    return (f"about {_duration(total)}, on this machine as it is now ({device}): "
            f"{train.max_steps:,} steps of {step:.2f} s, {evaluations:,} evaluations of "
            f"{step * evaluated:.1f} s")  # fmt: skip


def _time_updates(config: Config, corpus: Any) -> tuple[float, str]:
    """Time updates of the config's own model; returns the seconds of one, and the device."""
    import numpy as np

    from run import start_run
    from train import train_step

    rows = config.train.micro_batch_size * config.train.grad_accum_steps
    shape = rows, config.data.seq_len + 1
    tokens = np.asarray(corpus.tokens("train")[: rows * shape[1]])
    sequences = np.resize(tokens, shape).astype(np.int64)
    seconds: list[float] = []
    print("timing a few updates ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        run = start_run(replace(config, run_dir=folder), None)
        while len(seconds) < WARM or (len(seconds) < TIMED and sum(seconds) < TIME):
            start = time.perf_counter()
            train_step(run, sequences, 0.1)
            seconds.append(time.perf_counter() - start)
    return min(seconds), run.device.type


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


if __name__ == "__main__":
    sys.exit(main())
