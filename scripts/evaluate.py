"""Score a trained model on a split or on any text: `python -m scripts.evaluate RUN --window 16`

Loss (nats per token), perplexity and bits per byte over the whole text; every token is predicted
once, but those of prompts (data.prompt_field) do not count. Windows have no weights, so the same
model can be scored under other windows than the one it was trained with: the table shows what a
narrow window loses, and whether a wide one helps. With --weights it also shows what weights rounded
to int8 lose.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arguments import add_run, open_run
from configs.settings import keys_of
from errors import ArgumentParser, UserError, command, fields_named

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from inference.trained import TrainedModel
    from training.evaluation import Score


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each window and each format of the weights."""
    arguments = _parser().parse_args(argv)
    if arguments.seq_len is not None and arguments.seq_len < 1:
        raise UserError(f"--seq-len is {arguments.seq_len}: it must be at least 1")
    if arguments.file is not None and arguments.data_path is not None:
        raise UserError("give --file or --data-path, not both")
    for option in ("field", "prompt_field"):
        if getattr(arguments, option) is not None and arguments.file is None:
            name = "--" + option.replace("_", "-")
            raise UserError(f"{name} names a column of --file: give --file as well")
    windows = [_window(word) for word in arguments.window]
    trained = open_run(arguments)
    read = _read_split if arguments.file is None else _read_file
    tokens, n_bytes = read(trained, arguments)
    seq_len = arguments.seq_len or trained.config.data.seq_len
    print(f"{trained.checkpoint.path}, {len(tokens):,} tokens in sequences of {seq_len:,}")
    # The column of the weights is there if the option is given.
    print(_row("window", arguments.weights and "weights", "loss", "perplexity", "bits per byte"))
    for word, window in zip(arguments.window, windows, strict=True):
        changed = trained if word == "trained" else trained.with_settings(sliding_window=window)
        for weights in arguments.weights or [None]:
            chosen = changed.rounded() if weights == "int8" else changed
            score = _score(chosen, tokens, n_bytes, seq_len)
            numbers = f"{score.loss:.4f}", f"{score.perplexity:.2f}", f"{score.bpb:.4f}"
            print(_row(word, weights, *numbers), flush=True)
    if score.n_tokens < len(tokens) - 1:
        print(f"{score.n_tokens:,} tokens count; the others are those of prompts")
    return 0


def _row(window: str, weights: str | None, loss: str, perplexity: str, bpb: str) -> str:
    middle = f" {weights:>8}" if weights else ""
    return f"{window:>10}{middle} {loss:>8} {perplexity:>11} {bpb:>14}"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.evaluate",
        description="Score a trained model on a split or on any text.",
        epilog="example: python -m scripts.evaluate runs/quickstart --window trained 16 full",
    )
    add_run(parser)
    add = parser.add_argument
    add("--split", choices=("train", "val", "test"), default="test", help="split to score (test)")
    add("--data-path", metavar="PATH", help="where the run's own text is now, if it was moved")
    add("--file", metavar="PATH", help="score this text (file, folder or glob) instead of a split")
    add("--field", metavar="NAME", help="column of the text in the tables of --file (the run's)")
    add(
        "--prompt-field",
        metavar="NAME",
        help="column of the prompts in the tables of --file (the run's, unless --field is given)",
    )
    add("--seq-len", type=int, metavar="N", help="tokens in a sequence (the run's)")
    add(
        "--window",
        nargs="+",
        default=["trained"],
        metavar="W",
        help="sliding windows: numbers of keys, `full`, `trained`",
    )
    add(
        "--weights",
        nargs="+",
        choices=("fp32", "int8"),
        help="formats of the weights, a row each: as trained, rounded to int8 (fp32)",
    )
    return parser


def _window(word: str) -> int | None:
    """Read a window from the command line."""
    if word in ("full", "trained"):
        return None
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"--window {word}: give a number of keys from 1, `full` or `trained`")
    return int(word)


def _read_split(trained: "TrainedModel", arguments: argparse.Namespace) -> tuple[Any, int]:
    """Return the tokens of the run's split and the number of bytes of their text.

    Raises `UserError` if the text differs from that of the training, or if the split is empty.
    """
    from data.text import open_split

    text, path = trained.config.data, arguments.data_path
    expected_hash = trained.checkpoint.metadata["data_hash"]
    is_movable = text.source == "files" and text.mix is None and expected_hash != ""
    remedy = "--file scores any text"
    if path is not None:
        if not is_movable:
            raise UserError("--data-path needs a run with data.source=files: leave it out")
        text = replace(text, path=path)
    elif is_movable:
        remedy = f"--data-path names the place of a moved text, {remedy}"
    names = keys_of("data") | ({} if path is None else {"path": "--data-path"})
    try:
        with fields_named(names):
            return open_split(text, trained.tokenizer, arguments.split, expected_hash)
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from None


def _read_file(trained: "TrainedModel", arguments: argparse.Namespace) -> tuple[Any, int]:
    """Return the tokens of --file and the number of bytes of its text.

    The run's data settings decide what a document is.
    """
    import numpy as np

    from data.prompts import encode_marked
    from data.text import open_sources, refuse_missing_prompts

    text = replace(trained.config.data, source="files", path=arguments.file, mix=None)
    if arguments.field is not None:
        text = replace(text, field=arguments.field, prompt_field=None)
    if arguments.prompt_field is not None:
        text = replace(text, prompt_field=arguments.prompt_field)
    tokens: list[int] = []
    n_bytes = 0
    names = {"path": "--file", "field": "--field", "prompt_field": "--prompt-field"}
    with fields_named(keys_of("data") | names):
        sources = open_sources(text)
        if arguments.prompt_field is not None:  # that of the run need not apply to this file
            refuse_missing_prompts(text, sources)
        for document in sources["files"].documents():
            start = document.prompt_length
            tokens += encode_marked(trained.tokenizer, document.text, start)
            n_bytes += len(document.text[start:].encode())
    return np.array(tokens), n_bytes


def _score(trained: "TrainedModel", tokens: Any, n_bytes: int, seq_len: int) -> "Score":
    """Score the model in fp32, with a progress bar."""
    from tqdm import tqdm

    from data.batches import evaluation_sequences
    from training.evaluation import evaluate

    rows = trained.config.train.eval_batch_size
    sequences = evaluation_sequences(tokens, seq_len, batch_size=rows)
    bar = tqdm(sequences, total=-(-len(tokens) // (seq_len * rows)), leave=False, disable=None)
    return evaluate(trained.loss, bar, n_bytes, trained.device)


if __name__ == "__main__":
    sys.exit(main())
