"""What is lost when the first tokens leave the window? `python -m experiments.stream RUN`

Streams a text through the rolling cache, far past the length that the model was trained on, and
prints the perplexity by distance from the beginning, once for each number of first tokens that are
kept (StreamingLLM, arXiv 2309.17453, table 1). A model that learned with all tokens in sight, as
quickstart-full.yaml's, leans on the first ones; one that learned behind a window does not.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 64  # tokens a forward pass


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each number of sinks."""
    parser = ArgumentParser(
        prog="python -m experiments.stream",
        description="Stream a long text with and without its first tokens, and compare.",
        epilog="example: python -m experiments.stream runs/quickstart-full --window 64 --sinks 0 4",
    )
    parser.add_argument("run", nargs="?", default="runs/quickstart", help="a run or a checkpoint")
    parser.add_argument("--window", type=int, help="sliding window of every layer (as trained)")
    parser.add_argument("--sinks", type=int, nargs="+", default=[0, 1, 2, 4], metavar="N",
                        help="numbers of first tokens to keep (0 1 2 4)")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=4096, help="length of the text (4096)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    arguments = parser.parse_args(argv)
    if arguments.tokens < 2:
        raise UserError(f"--tokens is {arguments.tokens}: at least 2, to predict one from another")

    from data.text import open_text
    from inference.trained import open_trained

    trained = open_trained(arguments.run)
    tokens = open_text(trained.config.data, trained.config.tokenizer, trained.tokenizer)[1].tokens(
        arguments.split
    )
    tokens = tokens[: arguments.tokens + 1].astype("int64")
    windows = trained.model.config.windows
    if arguments.window is not None:
        windows = (arguments.window,) * len(windows)
    elif None in windows:
        raise UserError("this model has layers without a window: give them one by --window")
    seq_len = trained.config.data.seq_len
    edges = _edges(seq_len, len(tokens) - 1)
    print(f"{trained.checkpoint.path}, {len(tokens) - 1:,} tokens, trained on {seq_len:,};")
    print(f"perplexity of the tokens up to a position, windows {list(dict.fromkeys(windows))}")
    print(f"{'kept':>6}" + "".join(f"{edge:>10,}" for edge in edges))
    for sinks in arguments.sinks:
        changed = trained.with_settings(sliding_window=windows, attention_sinks=sinks)
        nats = _stream(changed.model, tokens, f"{sinks} kept")
        parts = zip([0, *edges], edges, strict=False)
        cells = [nats[start:end].mean().exp().item() for start, end in parts]
        print(f"{sinks:>6}" + "".join(f"{cell:10.2f}" for cell in cells), flush=True)
    return 0


def _edges(seq_len: int, n_tokens: int) -> list[int]:
    """Where the columns end: the trained length, twice that, four times, ... and the end."""
    edges = []
    while seq_len < n_tokens:
        edges.append(seq_len)
        seq_len *= 2
    return [*edges, n_tokens]


def _stream(model: Any, tokens: Any, label: str) -> "Tensor":
    """Nats (T,) of each token but the first, fed through the rolling cache."""
    import torch
    from tqdm import tqdm

    from model import RollingKVCache

    stream = torch.from_numpy(tokens)
    cache = RollingKVCache(model.config)
    nats = []
    with torch.inference_mode():
        chunks = list(zip(stream[:-1].split(CHUNK), stream[1:].split(CHUNK), strict=True))
        for inputs, targets in tqdm(chunks, label, leave=False, disable=None):
            chances = model(inputs[None], cache=cache)[0].log_softmax(-1)
            nats.append(-chances.gather(-1, targets[:, None])[:, 0])
    return torch.cat(nats)


if __name__ == "__main__":
    sys.exit(main())
