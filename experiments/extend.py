"""Does a model use more context than it was trained on? `python -m experiments.extend RUN`

Measures bits per byte by length of text, in multiples of the trained length. Every length predicts
the same tokens, so only the context differs. For a trained length of 8 and lengths 1, 2, 4:

    tokens      . . . . . . . . . . . . . . . . . . . . . . . . . . . . x x x x
    length 1                                                    |_______________|
    length 2                                    |_______________________________|
    length 4    |_______________________________________________________________|

The tokens marked x, half a trained length, are predicted. The next text ends half a trained length
later, so each token with enough context is predicted once.

Beyond the trained length, RoPE rotates by angles that the model has never seen. The scalings
(model/rope.py) map them to trained angles; their factor is the multiple of the length. Nothing is
trained. A model with windows cannot use context beyond its reach.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arguments import add_run, open_run
from configs.settings import keys_of
from data.splits import SPLITS
from errors import ArgumentParser, UserError, command, fields_named
from experiments.result import add_json, write_json
from model.config import SCALING
from model.window import reach

if TYPE_CHECKING:  # torch is imported by `open_run`, after the arguments are valid
    from torch import Tensor

    from inference.trained import TrainedModel

MAX_TOKENS = 8192


@dataclass(frozen=True)
class Score:
    """Bits per byte of the predicted tokens, with texts of one length and one RoPE scaling."""

    scaling: str
    length: int  # tokens
    bits_per_byte: float


@dataclass(frozen=True)
class ExtendResult:
    """Scores of the same tokens under every scaling and length."""

    checkpoint: str
    split: str
    trained_length: int  # tokens
    reach: int | None  # tokens that a prediction can depend on; None: all
    sinks: int
    n_targets: int  # tokens predicted in each text
    n_texts: int
    scores: list[Score]


@command
@fields_named(keys_of("data"))
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then print a line for each scaling, with a column for each length."""
    arguments = _arguments(argv)
    trained = open_run(arguments)
    result = measure(
        trained, arguments.lengths, arguments.scaling, arguments.split, arguments.max_tokens
    )
    write_json(arguments.json, result)
    print(*_report(result), sep="\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m experiments.extend",
        description="What a trained model gains or loses on texts longer than it was trained on: "
        "bits per byte of the same tokens with more and more context.",
        epilog="example: python -m experiments.extend runs/quickstart --lengths 1 2 8",
    )
    add_run(parser)
    add = parser.add_argument
    add("--lengths", nargs="+", type=int, default=[1, 2, 4], metavar="N",
        help="lengths of text, in multiples of the trained length (1 2 4)")  # fmt: skip
    add("--scaling", nargs="+", choices=SCALING, default=list(SCALING),
        help="RoPE scalings, whose factor is the multiple; none: as trained (all)")  # fmt: skip
    add("--split", choices=SPLITS, default="test", help="split to read (test)")
    add("--max-tokens", type=int, default=MAX_TOKENS, metavar="N",
        help=f"predict at most N tokens, from all over the split ({MAX_TOKENS:,})")  # fmt: skip
    add_json(parser)
    arguments = parser.parse_args(argv)
    for multiple in arguments.lengths:
        if multiple < 1:
            raise UserError(f"--lengths {multiple}: give multiples of the trained length from 1")
    if arguments.max_tokens < 1:
        raise UserError(f"--max-tokens is {arguments.max_tokens}: it must be at least 1")
    arguments.lengths = list(dict.fromkeys(arguments.lengths))
    arguments.scaling = list(dict.fromkeys(arguments.scaling))
    return arguments


def measure(
    trained: "TrainedModel",
    multiples: Sequence[int],
    scalings: Sequence[str],
    split: str,
    max_tokens: int,
) -> ExtendResult:
    """Score the model with texts of `multiples` of its trained length, under each scaling.

    Raises `UserError` if the run's text has changed or is too short, or if the model was trained
    with a scaling and another is asked for.
    """
    from data.text import open_split

    config, trained_length = trained.model.config, trained.config.data.seq_len
    if config.rope_scaling != "none" and set(scalings) != {"none"}:
        raise UserError(
            f"the run was trained with RoPE scaling {config.rope_scaling}, which cannot be "
            "combined with another: use --scaling none to keep it"
        )
    data_hash = trained.checkpoint.metadata["data_hash"]
    tokens, _ = open_split(trained.config.data, trained.tokenizer, split, data_hash)
    longest, targets = max(multiples) * trained_length, n_targets(trained_length)
    ends = text_ends(len(tokens), longest, targets, max_tokens)
    scores = _scores(trained, tokens, ends, multiples, scalings)
    return ExtendResult(
        str(trained.checkpoint.path), split, trained_length, reach(config.windows), config.sinks,
        targets, len(ends), scores,
    )  # fmt: skip


def _scores(
    trained: "TrainedModel",
    tokens: Any,
    ends: Sequence[int],
    multiples: Sequence[int],
    scalings: Sequence[str],
) -> list[Score]:
    """Score the texts that end at `ends`, under each scaling and with each length."""
    trained_length = trained.config.data.seq_len
    scores = []
    with _progress_bar(len(ends) * sum(multiples) * trained_length * len(scalings)) as bar:
        for scaling in scalings:
            for multiple in multiples:
                length = multiple * trained_length
                bar.set_description(f"{scaling}, {length:,} tokens")
                variant = trained
                if scaling != "none":
                    variant = trained.with_settings(
                        rope_scaling=scaling,
                        rope_factor=float(multiple),
                        rope_original_len=trained_length,
                    )
                score = bits_per_byte(variant, tokens, ends, length, bar)
                scores.append(Score(scaling, length, score))
    return scores


def n_targets(trained_length: int) -> int:
    """Return how many tokens are predicted at the end of each text: half the trained length."""
    return max(1, trained_length // 2)


def text_ends(n_tokens: int, longest: int, targets: int, max_tokens: int) -> list[int]:
    """Choose where texts end: a text that ends at e predicts tokens e - targets to e - 1.

    Raises `UserError` if there are fewer than `longest` + 1 tokens.
    """
    ends = range(longest + 1, n_tokens + 1, targets)
    if not ends:
        raise UserError(
            f"the split has {n_tokens:,} tokens, and --lengths needs texts of {longest:,} + 1: "
            "use smaller --lengths or another --split"
        )
    chosen = min(len(ends), max(1, max_tokens // targets))
    return [ends[n * len(ends) // chosen] for n in range(chosen)]


def texts(tokens: Any, ends: Sequence[int], length: int) -> "tuple[Tensor, Tensor]":
    """Return the inputs of the texts that end at `ends`, and their targets: (texts, length)."""
    import numpy as np
    import torch

    rows = np.stack([tokens[end - length - 1 : end] for end in ends]).astype(np.int64)
    return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])


def bits_per_byte(
    trained: "TrainedModel", tokens: Any, ends: Sequence[int], length: int, bar: Any
) -> float:
    """Return bits per byte of the last tokens of the texts of `length` that end at `ends`."""
    import torch
    from torch.nn.functional import cross_entropy

    last = n_targets(trained.config.data.seq_len)
    # As many rows as make a batch of evaluation, in tokens.
    batch_tokens = trained.config.train.eval_batch_size * trained.config.data.seq_len
    rows = max(1, batch_tokens // length)
    nats, n_bytes = 0.0, 0
    for first in range(0, len(ends), rows):
        x, y = texts(tokens, ends[first : first + rows], length)
        documents = None if trained.bos_id is None else 1 + (x == trained.bos_id).cumsum(dim=1)
        with torch.no_grad():
            logits = trained.model(x, documents=documents)[:, -last:]
        targets = y[:, -last:]
        nats += cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        n_bytes += sum(len(trained.tokenizer.token_bytes(id)) for id in targets.flatten().tolist())
        bar.update(x.numel())
    return nats / math.log(2) / max(n_bytes, 1)


def _report(result: ExtendResult) -> Iterator[str]:
    """Yield the lines of the table."""
    context = "all tokens before it"
    if result.reach is not None:
        sinks = f" and the first {result.sinks:,}" if result.sinks else ""
        context = f"{result.reach:,} tokens{sinks}"
    yield result.checkpoint
    yield f"trained on {result.trained_length:,} tokens; a prediction can depend on {context}"
    yield (
        f"bits per byte of the last {result.n_targets:,} tokens of each text, by its length; "
        f"{result.n_texts * result.n_targets:,} tokens of {result.split}\n"
    )
    lengths = list(dict.fromkeys(score.length for score in result.scores))
    yield f"{'scaling':>8}" + "".join(f"{length:>10,}" for length in lengths)
    for scaling in dict.fromkeys(score.scaling for score in result.scores):
        row = [score.bits_per_byte for score in result.scores if score.scaling == scaling]
        yield f"{scaling:>8}" + "".join(f"{bits:>10.4f}" for bits in row)


def _progress_bar(n_tokens: int) -> Any:
    from tqdm import tqdm

    shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(total=n_tokens, bar_format=shape, leave=False, disable=None)


if __name__ == "__main__":
    sys.exit(main())
