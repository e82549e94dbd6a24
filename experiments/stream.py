"""What is lost when the first tokens leave the window? `python -m experiments.stream RUN`

Feeds a text through the rolling cache, far past the trained length, once for each number of sinks
(first tokens that stay visible), and measures the perplexity by position in the text (StreamingLLM,
arXiv 2309.17453, table 1). The large models of that paper, trained with full attention, depend on
their first tokens. The small ones of this repository do not: docs/results.md has the numbers.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arguments import add_run, open_run
from configs.settings import keys_of
from data.splits import SPLITS
from errors import ArgumentParser, UserError, command, fields_named
from experiments.result import add_json, write_json
from model.window import Window

if TYPE_CHECKING:  # torch is imported by `open_run`, after the arguments are valid
    from torch import Tensor

    from inference.trained import TrainedModel
    from model import Transformer

CHUNK = 64  # tokens in a forward pass


@dataclass(frozen=True)
class SinkResult:
    """Perplexity with one number of sinks: for each interval of positions."""

    sinks: int
    perplexities: list[float]


@dataclass(frozen=True)
class StreamResult:
    """Perplexity by position: interval n has the tokens from ends[n - 1] to ends[n]."""

    checkpoint: str
    split: str
    windows: list[Window]  # keys, for each layer
    trained_length: int  # tokens
    ends: list[int]  # tokens
    rows: list[SinkResult]


@command
@fields_named(keys_of("data"))
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then print a line for each number of sinks."""
    arguments = _arguments(argv)
    trained = open_run(arguments)
    windows = list(trained.model.config.windows)
    if arguments.window is not None:
        windows = [arguments.window] * len(windows)
    elif None in windows:
        raise UserError("the model has layers with full attention: give them a window by --window")
    result = measure(trained, windows, arguments.sinks, arguments.split, arguments.tokens)
    write_json(arguments.json, result)
    print(*_report(result), sep="\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m experiments.stream",
        description="Measure perplexity far past the trained length, with and without sinks.",
        epilog="example: python -m experiments.stream runs/quickstart-full --window 64 --sinks 0 4",
    )
    add_run(parser)
    parser.add_argument("--window", type=int, help="window of every layer, in keys (as trained)")
    parser.add_argument("--sinks", type=int, nargs="+", default=[0, 1, 2, 4], metavar="N",
                        help="numbers of first tokens that stay visible (0 1 2 4)")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the text (4096)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="split to read (test)")
    add_json(parser)
    arguments = parser.parse_args(argv)
    if arguments.tokens < 2:
        raise UserError(f"--tokens is {arguments.tokens}: one prediction needs 2 or more")
    if arguments.window is not None and arguments.window < 1:
        raise UserError(f"--window is {arguments.window}: give 1 or more keys")
    if min(arguments.sinks) < 0:
        raise UserError(f"--sinks is {min(arguments.sinks)}: give 0 or more")
    return arguments


def measure(
    trained: "TrainedModel",
    windows: list[Window],
    sinks: Sequence[int],
    split: str,
    max_tokens: int,
) -> StreamResult:
    """Stream at most `max_tokens` + 1 tokens of `split` once for each number of sinks.

    Raises `UserError` if the run's text has changed or has no such split.
    """
    import torch

    from data.text import open_split

    data_hash = trained.checkpoint.metadata["data_hash"]
    tokens, _ = open_split(trained.config.data, trained.tokenizer, split, data_hash)
    text = torch.from_numpy(tokens[: max_tokens + 1].astype("int64"))
    trained_length = trained.config.data.seq_len
    ends = interval_ends(trained_length, len(text) - 1)
    rows = []
    for count in sinks:
        variant = trained.with_settings(sliding_window=windows, attention_sinks=count)
        nats = _stream(variant.model, text, f"{count} sinks")
        intervals = zip([0, *ends], ends, strict=False)
        rows.append(
            SinkResult(count, [nats[start:end].mean().exp().item() for start, end in intervals])
        )
    path = str(trained.checkpoint.path)
    return StreamResult(path, split, windows, trained_length, ends, rows)


def interval_ends(trained_length: int, n_tokens: int) -> list[int]:
    """Return the trained length, twice that, four times that and so on, and last `n_tokens`."""
    ends = []
    end = trained_length
    while end < n_tokens:
        ends.append(end)
        end *= 2
    return [*ends, n_tokens]


def _stream(model: "Transformer", text: "Tensor", label: str) -> "Tensor":
    """Return the nats (T - 1,) of all tokens (T,) but the first, read through the rolling cache."""
    import torch
    from tqdm import tqdm

    from model import RollingKVCache

    cache = RollingKVCache(model.config)
    nats = []
    chunks = list(zip(text[:-1].split(CHUNK), text[1:].split(CHUNK), strict=True))
    with torch.inference_mode():
        for inputs, targets in tqdm(chunks, label, leave=False, disable=None):
            log_probabilities = model(inputs[None], cache=cache)[0].log_softmax(-1)
            nats.append(-log_probabilities.gather(-1, targets[:, None])[:, 0])
    return torch.cat(nats)


def _report(result: StreamResult) -> Iterator[str]:
    """Yield the lines of the table."""
    windows = ", ".join("full" if w is None else f"{w:,}" for w in dict.fromkeys(result.windows))
    yield (
        f"{result.checkpoint}, {result.ends[-1]:,} tokens of {result.split}, trained on sequences "
        f"of {result.trained_length:,}"
    )
    yield (
        f"windows: {windows}; each column: perplexity of the tokens from the previous column's "
        "position to its own"
    )
    yield f"{'sinks':>6}" + "".join(f"{end:>10,}" for end in result.ends)
    for row in result.rows:
        yield f"{row.sinks:>6}" + "".join(f"{cell:10.2f}" for cell in row.perplexities)


if __name__ == "__main__":
    sys.exit(main())
