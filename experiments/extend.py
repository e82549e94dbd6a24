"""Does a model gain from more context than it was trained on? `python -m experiments.extend`

Bits per byte by length of text, in multiples of the trained length. Every length predicts the same
tokens, so that nothing but the context differs: for a trained length of 8 and lengths 1, 2, 4

    tokens      . . . . . . . . . . . . . . . . . . . . . . . . . . . . x x x x
    length 1                                                    |_______________|
    length 2                                    |_______________________________|
    length 4    |_______________________________________________________________|

the x, half a trained length, are predicted. Texts follow each other by as much, so each token that
has enough before it is predicted once.

Beyond the trained length RoPE turns to angles that were never seen. The scalings (model/rope.py)
squeeze them into those that were, with the length's multiple as their factor, without training. A
model with windows cannot tell the lengths apart beyond its reach.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from errors import ArgumentParser, UserError, command
from model.config import SCALING
from model.window import reach

if TYPE_CHECKING:
    from torch import Tensor

    from inference.trained import TrainedModel

MAX_TOKENS = 8192


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each scaling, a column for each length."""
    arguments = _arguments(argv)
    from inference.trained import open_trained

    opened = open_trained(arguments.run)
    trained = opened.config.data.seq_len
    lengths = [times * trained for times in arguments.lengths]
    if opened.model.config.rope_scaling != "none" and set(arguments.scaling) != {"none"}:
        raise UserError(
            f"the run was trained with model.rope_scaling {opened.model.config.rope_scaling}, and "
            "another cannot be added: use --scaling none, which leaves it as it was trained"
        )
    tokens = _split(opened, arguments.split)
    ends = text_ends(len(tokens), max(lengths), n_targets(trained), arguments.max_tokens)
    print(_title(opened, arguments.split, len(ends)))
    print(f"{'scaling':>8}" + "".join(f"{length:>10,}" for length in lengths), flush=True)
    passes = len(ends) * sum(lengths) * len(arguments.scaling)
    with _bar(passes) as bar:
        for scaling in arguments.scaling:
            row = f"{scaling:>8}"
            for times, length in zip(arguments.lengths, lengths, strict=True):
                bar.set_description(f"{scaling}, {length:,} tokens")
                tried = opened if scaling == "none" else opened.with_settings(
                    rope_scaling=scaling, rope_factor=float(times), rope_original_len=trained
                )  # fmt: skip
                row += f"{bits_per_byte(tried, tokens, ends, length, bar):>10.4f}"
            bar.clear()
            print(row, flush=True)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m experiments.extend",
        description="What a trained model gains or loses on texts longer than it was trained on: "
        "bits per byte of the same tokens with more and more before them.",
        epilog="example: python -m experiments.extend runs/quickstart --lengths 1 2 8",
    )
    add = parser.add_argument
    add("run", nargs="?", default="runs/quickstart", help="a run or a checkpoint")
    add("--lengths", nargs="+", type=int, default=[1, 2, 4], metavar="N",
        help="lengths of text in multiples of the trained one (1 2 4)")  # fmt: skip
    add("--scaling", nargs="+", choices=SCALING, default=list(SCALING),
        help="of RoPE, by the same multiple; none: as trained (all of them)")  # fmt: skip
    add("--split", choices=("train", "val", "test"), default="test")
    add("--max-tokens", type=int, default=MAX_TOKENS, metavar="N",
        help=f"predict so many at most, from all over the split ({MAX_TOKENS:,})")  # fmt: skip
    arguments = parser.parse_args(argv)
    for times in arguments.lengths:
        if times < 1:
            raise UserError(f"--lengths {times}: give multiples of the trained length from 1")
    if arguments.max_tokens < 1:
        raise UserError(f"--max-tokens is {arguments.max_tokens}: it must be at least 1")
    arguments.lengths = list(dict.fromkeys(arguments.lengths))
    arguments.scaling = list(dict.fromkeys(arguments.scaling))
    return arguments


def n_targets(trained: int) -> int:
    """Tokens predicted at the end of each text: half of the trained length."""
    return max(1, trained // 2)


def text_ends(n_tokens: int, longest: int, targets: int, max_tokens: int) -> list[int]:
    """Choose where texts end: text e predicts tokens e - targets to e - 1, at every length.

    Raises `UserError` when the tokens hold no text of `longest`.
    """
    ends = range(longest + 1, n_tokens + 1, targets)
    if not ends:
        raise UserError(
            f"the split has {n_tokens:,} tokens, --lengths asks for texts of {longest:,} + 1: "
            "use smaller --lengths or another --split"
        )
    chosen = min(len(ends), max(1, max_tokens // targets))
    return [ends[n * len(ends) // chosen] for n in range(chosen)]


def texts(tokens: Any, ends: Sequence[int], length: int) -> "tuple[Tensor, Tensor]":
    """Cut the texts that end at `ends`: inputs and, one token on, targets, both (texts, length)."""
    import numpy as np
    import torch

    rows = np.stack([tokens[end - length - 1 : end] for end in ends]).astype(np.int64)
    return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])


def bits_per_byte(
    opened: "TrainedModel", tokens: Any, ends: Sequence[int], length: int, bar: Any
) -> float:
    """Score the last tokens of the texts of `length` that end at `ends`."""
    import torch

    from model.loss import cross_entropy

    last = n_targets(opened.config.data.seq_len)
    nats, n_bytes = 0.0, 0
    for few in _batches(ends, opened, length):
        x, y = texts(tokens, few, length)
        documents = None
        if opened.config.data.document_mask:
            documents = 1 + (x == opened.tokenizer.bos_id).cumsum(dim=1)
        with torch.no_grad():
            logits = opened.model(x, documents=documents)[:, -last:]
        targets = y[:, -last:]
        nats += cross_entropy(logits, targets).item() * targets.numel()
        n_bytes += sum(len(opened.tokenizer.token_bytes(id)) for id in targets.flatten().tolist())
        bar.update(x.numel())
    return nats / math.log(2) / max(n_bytes, 1)


def _batches(ends: Sequence[int], opened: "TrainedModel", length: int) -> Iterator[Sequence[int]]:
    """Take as many texts at once as make up a batch of evaluation."""
    rows = opened.config.train.eval_batch_size * opened.config.data.seq_len // length
    for first in range(0, len(ends), max(1, rows)):
        yield ends[first : first + max(1, rows)]


def _split(opened: "TrainedModel", split: str) -> Any:
    """The tokens of a split of the text that the run was trained on."""
    from data.text import open_text

    _, corpus = open_text(opened.config.data, opened.config.tokenizer, opened.tokenizer)
    if corpus.data_hash != opened.checkpoint.metadata["data_hash"]:
        raise UserError("the run's text is no longer what it was trained on")
    return corpus.tokens(split)


def _title(opened: "TrainedModel", split: str, n_texts: int) -> str:
    trained, seen = opened.config.data.seq_len, reach(opened.model.config.windows)
    last = n_targets(trained)
    sight = "a prediction can depend on everything before it"
    if seen is not None:
        sight = f"a prediction can depend on {seen:,} tokens"
        if sinks := opened.model.config.sinks:
            sight += f" and on the first {sinks:,}"
    return (
        f"{opened.checkpoint.path}\ntrained on {trained:,} tokens at a time; {sight}\n"
        f"bits per byte of the last {last:,} of each text, by its length: "
        f"{n_texts * last:,} tokens of {split}\n"
    )


def _bar(total: int) -> Any:
    from tqdm import tqdm

    shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(total=total, bar_format=shape, leave=False, disable=None)


if __name__ == "__main__":
    sys.exit(main())
