"""What is in the text, and would it train well? `python -m scripts.corpus [CONFIG]`

Reads every document of a config's text, tokenizes it as training would, and prints what is in it
(data/census.py), some documents, how long training would take, and warnings about problems that
spoil a training without an error.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from arguments import add_config, open_initial, read_config
from configs.settings import Config, keys_of, lora_config, model_config
from errors import ArgumentParser, UserError, command, fields_named

if TYPE_CHECKING:  # numpy and the tokenizer are imported only when a text is read
    from data.census import TextCensus, TokenCensus
    from data.corpus import Corpus
    from data.documents import Document
    from data.mixture import MixedCorpus
    from data.tokenizer import Tokenizer
    from inference.weights import TrainedWeights

SPLITS = ("train", "val", "test")
EXCERPT = 2_000  # characters of a document that are printed
EPOCHS = 4  # a text that is read more often teaches less each time (arXiv 2305.16264)
FEW_SEQUENCES = 100
MIN_UPDATES, MAX_UPDATES = 3, 5  # timed updates; the fastest counts, because the first is slow
TIMING_SECONDS = 15  # after this time no more than `MIN_UPDATES` are timed


@command
@fields_named(keys_of("data", "tokenizer", "train"))
def main(argv: Sequence[str] | None = None) -> int:
    """Print some documents, the counts and the warnings; exit code 0 with or without warnings."""
    arguments = _parser().parse_args(argv)
    if arguments.show < 0:
        raise UserError(f"--show is {arguments.show}: print 0 documents or more")
    config = read_config(arguments)

    from data.census import (
        count_text,
        count_tokens,
        text_warnings,
        token_warnings,
        vocabulary_warnings,
    )  # fmt: skip
    from data.text import open_sources, open_text
    from data.tokenizer import open_tokenizer

    initial, sources = open_initial(config), open_sources(config.data)
    given = open_tokenizer(initial.tokenizer()) if initial else None
    tokenizer, corpus = open_text(config.data, config.tokenizer, given, sources)
    excerpts = Excerpts(arguments.show, sum(map(corpus.n_documents, SPLITS)))
    documents = chain.from_iterable(source.documents() for source in sources.values())
    text = count_text(excerpts.passing(documents), sum(map(corpus.n_bytes, SPLITS)))
    print("".join(excerpts.printed), end="")
    print_rows(text_rows(text))
    tokens = {
        split: count_tokens(corpus.tokens(split), tokenizer.vocab_size, tokenizer.bos_id)
        for split in SPLITS
    }
    print_rows(token_rows(config, corpus, tokenizer, tokens))
    if not arguments.no_time:
        print_rows([("time", _training_time(config, corpus, tokenizer.vocab_size, initial))])
    warnings = [*text_warnings(text), *token_warnings(tokens), *fit_warnings(config, tokens)]
    if initial is None:
        warnings += vocabulary_warnings(tokens["train"], tokenizer)
    print(
        "\n".join(f"warning          {printable(line)}" for line in warnings) or "no problems found"
    )
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.corpus",
        description="Show what is in a text, and check it before training.",
        epilog="example: python -m scripts.corpus configs/quickstart.yaml --show 3 --no-time",
    )
    add_config(parser)
    parser.add_argument("--show", type=int, default=1, metavar="N",
                        help="documents to print, at equal distances in the text (1)")  # fmt: skip
    parser.add_argument("--no-time", action="store_true", help="do not estimate training time")
    return parser


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print rows of (name, value) in two columns."""
    for name, value in rows:
        print(f"{name:16} {printable(value)}", flush=True)


def printable(text: str) -> str:
    """Replace each control character, such as that of an escape sequence, by U+FFFD."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


class Excerpts:
    """Excerpts of `show` documents among `expected` ones: of the first, and at equal distances."""

    def __init__(self, show: int, expected: int) -> None:
        self.printed: list[str] = []
        self._show, self._expected = show, expected

    def passing(self, documents: "Iterable[Document]") -> "Iterator[Document]":
        """Yield the documents unchanged, and add excerpts of some to `printed`."""
        for number, document in enumerate(documents):
            due = number * self._show >= len(self.printed) * self._expected
            if due and len(self.printed) < self._show:
                self.printed.append(_excerpt(number, document))
            yield document


def _excerpt(number: int, document: "Document") -> str:
    text = document.text
    more = f"\n[... {len(text):,} characters in all]" if len(text) > EXCERPT else ""
    excerpt = printable(text[:EXCERPT])
    return f"--- document {number}: {printable(document.name)}\n{excerpt}{more}\n\n"


# ---------------------------------------------------------------------------- rows and warnings


def text_rows(census: "TextCensus") -> Iterator[tuple[str, str]]:
    """Yield the rows about the text."""
    from data.census import KEPT

    speed = census.n_bytes / 1e6 / max(census.seconds, 1e-9)
    more = "more than " if census.words >= KEPT else ""
    yield "documents", f"{census.documents:,}, {census.n_bytes:,} bytes, read at {speed:.1f} MB/s"
    yield "longest", f"{census.longest_bytes:,} bytes: {census.longest_name}"
    yield "distinct words", f"{more}{census.words:,}"
    yield "repeated", (f"{census.repeated:,} documents; {census.alike:,} more differ in case and "
                       "spaces only")  # fmt: skip
    yield "commonest line", (f"{census.commonest_line_share:.2%} of the text, "
                             f"{census.commonest_line_count:,} times")  # fmt: skip
    yield "xz ratio", f"{census.xz_ratio:.4f} of the first {census.compressed_bytes / 1e6:.1f} MB"


def token_rows(
    config: Config,
    corpus: "Corpus | MixedCorpus",
    tokenizer: "Tokenizer",
    splits: "Mapping[str, TokenCensus]",
) -> Iterator[tuple[str, str]]:
    """Yield the rows about the tokens, and about training on them."""
    from data.census import SEEN

    for split in SPLITS:
        if tokens := corpus.n_tokens(split):
            counted = tokens - corpus.n_prompt_tokens(split)
            yield split, f"{tokens:,} tokens of {corpus.n_bytes(split) / counted:.2f} bytes"
    if prompts := {split: n for split in SPLITS if (n := corpus.n_prompt_tokens(split))}:
        shares = (f"{n / corpus.n_tokens(split):.1%} of {split}" for split, n in prompts.items())
        yield "prompts", (f"{sum(prompts.values()):,} tokens, which are left out of the loss and "
                          f"of bytes per token: {', '.join(shares)}")  # fmt: skip
    lengths = sorted(chain.from_iterable(splits[split].lengths for split in SPLITS))
    low, middle, high = (lengths[len(lengths) * tenths // 10] for tenths in (1, 5, 9))
    seq_len = config.data.seq_len
    yield "a document", (f"{middle:,} tokens (median), 10% below {low:,}, 10% above {high:,}; "
                         f"data.seq_len holds {seq_len / middle:,.2g} of the median")  # fmt: skip
    train, val = splits["train"], splits["val"]
    pieces = train.piece_counts(tokenizer)
    yield "pieces", (f"{(pieces > 0).sum():,} of {len(pieces):,} are used in train, "
                     f"{(pieces >= SEEN).sum():,} of them at least {SEEN} times")  # fmt: skip
    unseen = val.counts[train.counts == 0].sum() / max(1, val.n_tokens)
    spelled = train.spelled_share(tokenizer)
    yield "spelled in bytes", (f"{spelled:.3%} of the tokens; {unseen:.3%} of the "
                               "tokens of val do not occur in train")  # fmt: skip
    yield "training", (f"{config.train.max_steps:,} steps of {config.tokens_per_step:,} tokens: "
                       f"{_epochs(config, train.n_tokens):.2f} epochs")  # fmt: skip


def _epochs(config: Config, tokens: int) -> float:
    return config.train.max_steps * config.tokens_per_step / max(1, tokens)


def fit_warnings(config: Config, splits: "Mapping[str, TokenCensus]") -> Iterator[str]:
    """Yield a sentence for each conflict between the text and the settings of training."""
    seq_len, train = config.data.seq_len, splits["train"]
    if train.n_tokens < FEW_SEQUENCES * seq_len:
        yield f"fewer than {FEW_SEQUENCES} sequences of {seq_len:,} tokens to train on"
    if (epochs := _epochs(config, train.n_tokens)) > EPOCHS and not config.train.patience:
        yield (f"training reads the text {epochs:.1f} times: after about {EPOCHS} the model learns "
               "it by heart; give more text, fewer train.max_steps, or train.patience")  # fmt: skip
    middle = statistics.median(train.lengths)
    if middle < seq_len:
        yield (f"most documents are shorter than data.seq_len ({seq_len:,} tokens), half have less "
               f"than {middle:,.0f}: a sequence holds several unrelated ones")  # fmt: skip


# ---------------------------------------------------------------------------- the time


def _training_time(
    config: Config, corpus: "Corpus | MixedCorpus", vocab_size: int,
    initial: "TrainedWeights | None",
) -> str:  # fmt: skip
    """Estimate the time of training on this machine from a few updates of a new model."""
    from model.cost import training_memory
    from training.device import choose_device
    from training.memory import memory_limit

    shape = model_config(config, vocab_size)
    train, seq_len = config.train, config.data.seq_len
    needed = training_memory(
        shape, train.micro_batch_size, seq_len, train.optimizer, 4, lora_config(config)
    ).total
    memory = memory_limit(choose_device(train.device)[0])
    if memory is not None and needed > 0.8 * memory:
        return f"not measured: training needs {needed / 1e9:,.0f} GB of {memory / 1e9:,.0f} GB"
    step, device = _time_updates(config, corpus, initial)
    evaluations = -(-train.max_steps // train.eval_interval)
    evaluated = corpus.n_tokens("val") / config.tokens_per_step / 3  # forward only: a third
    total = step * (train.max_steps + evaluations * evaluated)
    return (f"about {_duration(total)}, on this machine as it is now ({device}): "
            f"{train.max_steps:,} steps of {step:.2f} s, {evaluations:,} evaluations of "
            f"{step * evaluated:.1f} s")  # fmt: skip


def _time_updates(
    config: Config, corpus: "Corpus | MixedCorpus", initial: "TrainedWeights | None"
) -> tuple[float, str]:
    """Time updates of the config's own model; return the seconds of one, and the device."""
    import numpy as np

    from start import start_run
    from train import train_step

    rows = config.train.micro_batch_size * config.train.grad_accum_steps
    shape = rows, config.data.seq_len + 1
    tokens = np.asarray(corpus.tokens("train")[: rows * shape[1]])
    sequences = np.resize(tokens, shape).astype(np.int64)
    seconds: list[float] = []
    print("timing a few updates ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        run = start_run(replace(config, run_dir=folder), None, initial)
        while len(seconds) < MIN_UPDATES or (
            len(seconds) < MAX_UPDATES and sum(seconds) < TIMING_SECONDS
        ):
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
