"""Score a trained model on a split or on any text: `python -m scripts.evaluate RUN --window 16`

Loss (nats per token), perplexity and bits per byte over the whole text, every token predicted once.
Windows carry no parameters, so the same weights can be scored under another window than the one
they were trained with: the table shows what they lose, or whether they can use more.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from inference.trained import TrainedModel
    from training.evaluation import Score


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each window."""
    parser = ArgumentParser(
        prog="python -m scripts.evaluate",
        description="Score a trained model on a split or on any text.",
        epilog="example: python -m scripts.evaluate runs/quickstart --window 16 64 full",
    )
    parser.add_argument("run", nargs="?", default="runs/quickstart", help="a run or a checkpoint")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--file", help="score this text (file, folder or glob) instead of a split")
    parser.add_argument("--seq-len", type=int, help="tokens per sequence of text (as trained)")
    parser.add_argument(
        "--window",
        nargs="+",
        default=["trained"],
        metavar="W",
        help="sliding windows to try: numbers, `full`, `trained`",
    )
    arguments = parser.parse_args(argv)
    if arguments.seq_len is not None and arguments.seq_len < 1:
        raise UserError(f"--seq-len is {arguments.seq_len}: it must be at least 1")
    windows = [_window(word) for word in arguments.window]

    from inference.trained import open_trained

    opened = open_trained(arguments.run)
    tokens, n_bytes = _text(opened, arguments)
    seq_len = arguments.seq_len or opened.config.data.seq_len
    print(f"{opened.checkpoint.path}, {len(tokens):,} tokens in sequences of {seq_len:,}")
    print(f"{'window':>10} {'loss':>8} {'perplexity':>11} {'bits per byte':>14}")
    for word, window in zip(arguments.window, windows, strict=True):
        tried = opened if word == "trained" else opened.with_settings(sliding_window=window)
        score = _score(tried, tokens, n_bytes, seq_len)
        print(
            f"{word:>10} {score.loss:8.4f} {score.perplexity:11.2f} {score.bpb:14.4f}", flush=True
        )
    return 0


def _window(word: str) -> int | None:
    """Read a window from the command line."""
    if word in ("full", "trained"):
        return None
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"--window {word}: give a number of keys from 1, `full` or `trained`")
    return int(word)


def _text(opened: "TrainedModel", arguments: argparse.Namespace) -> tuple[Any, int]:
    """The tokens to predict and the bytes that they stand for."""
    import numpy as np

    from data.sources.open import open_source
    from data.text import open_text

    if arguments.file is None:
        _, corpus = open_text(opened.config.data, opened.config.tokenizer, opened.tokenizer)
        if corpus.data_hash != opened.checkpoint.metadata["data_hash"]:
            raise UserError("the run's text is no longer what it was trained on: use --file")
        if corpus.n_tokens(arguments.split) < 2:
            raise UserError(
                f"the run has no {arguments.split} split: use another --split or --file"
            )
        return corpus.tokens(arguments.split), corpus.n_bytes(arguments.split)
    tokenizer, ids, n_bytes = opened.tokenizer, [], 0
    for document in open_source("files", path=arguments.file, field="text").documents():
        ids += [tokenizer.bos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
        n_bytes += len(document.text.encode())
    return np.array(ids), n_bytes


def _score(opened: "TrainedModel", tokens: Any, n_bytes: int, seq_len: int) -> "Score":
    """Score the model in fp32 on the CPU, with a bar that says how long it takes."""
    import torch
    from tqdm import tqdm

    from data.batches import evaluation_sequences
    from training.evaluation import evaluate

    rows = opened.config.train.eval_batch_size
    sequences = evaluation_sequences(tokens, seq_len, batch_size=rows)
    bar = tqdm(sequences, total=-(-len(tokens) // (seq_len * rows)), leave=False, disable=None)
    return evaluate(opened.loss, bar, n_bytes, torch.device("cpu"))


if __name__ == "__main__":
    sys.exit(main())
