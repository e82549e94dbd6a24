"""What does a window cost, and what does it lose? `python -m experiments.sweep`

Trains one config once for each window and compares: the reach through all layers, bits per byte of
validation, training speed, and the size of the cache in generation. The runs are kept in a folder;
a finished run is not trained again.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arguments import add_config, read_config
from configs.settings import Config
from errors import ArgumentParser, UserError, command
from experiments.result import add_json, write_json
from model.cost import cache_bytes
from model.window import Window, reach
from training.metrics import read_metrics

CACHE_LENGTH = 8_192  # tokens of text for which the cache is counted
CACHE_BYTES = 4  # of a cached number: fp32


@dataclass(frozen=True)
class WindowResult:
    """The measurements of one run."""

    run: str
    window: Window  # keys, in every layer; None: full attention
    reach: int | None  # tokens; None: all
    val_bpb: float  # bits per byte of the validation split
    tokens_per_s: float  # in training
    cache_bytes: int  # keys and values, fp32, after `cache_length` tokens


@dataclass(frozen=True)
class SweepResult:
    """The same config under several windows."""

    words: list[str]  # the config and its overrides, as given
    steps: int  # updates in each run
    cache_length: int  # tokens
    rows: list[WindowResult]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train the runs that are not finished, then print the table in Markdown.

    Returns the exit code of the first run that does not finish.
    """
    arguments = _arguments(argv)
    rows = []
    for window in arguments.windows:
        config = read_config(arguments, [
            f"train.max_steps={arguments.steps}",
            f"train.eval_interval={arguments.steps}",
            f"train.save_interval={arguments.steps}",
            f"model.sliding_window={'null' if window is None else window}",
            f"run_dir={Path(arguments.folder) / f'window-{_spell(window)}'}",
        ])  # fmt: skip
        code = _train(config)
        if code:
            return code
        rows.append(_read_run(config.folder, window))
    result = SweepResult(arguments.words, arguments.steps, CACHE_LENGTH, rows)
    write_json(arguments.json, result)
    print(*_report(result), sep="\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m experiments.sweep",
        description="Train one config under several windows and compare quality, speed and memory.",
        epilog="example: python -m experiments.sweep --windows 4 64 full --steps 100",
    )
    add_config(parser)
    windows = ["1", "4", "16", "64", "full"]
    parser.add_argument("--windows", nargs="+", default=windows, metavar="W",
                        help=f"numbers of keys, or `full` ({' '.join(windows)})")  # fmt: skip
    parser.add_argument("--steps", type=int, default=150, help="updates in each run (150)")
    parser.add_argument("--folder", default="runs/sweep", help="folder of the runs (runs/sweep)")
    add_json(parser)
    arguments = parser.parse_args(argv)
    if arguments.steps < 1:
        raise UserError(f"--steps is {arguments.steps}: give 1 or more")
    arguments.windows = list(dict.fromkeys(map(_window, arguments.windows)))
    return arguments


def _window(word: str) -> Window:
    if word == "full":
        return None
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"--windows {word}: give numbers of keys from 1, or `full`")
    return int(word)


def _spell(window: Window) -> str:
    return "full" if window is None else str(window)


def _train(config: Config) -> int:
    """Train a run to its end, unless it is finished; return the exit code of the training."""
    from train import train  # it imports torch

    with contextlib.redirect_stdout(sys.stderr):  # stdout has only the table
        return train(config, resume=(config.folder / "checkpoints").is_dir())


def _read_run(folder: Path, window: Window) -> WindowResult:
    """Read the last measurements of a finished run."""
    from inference.trained import open_trained  # it imports torch

    last: dict[str, float] = {}
    for record in read_metrics(folder / "metrics.jsonl"):
        last |= record
    config = open_trained(folder).model.config
    return WindowResult(
        run=str(folder),
        window=window,
        reach=reach(config.windows),
        val_bpb=last["val_bpb"],
        tokens_per_s=last["tokens_per_s"],
        cache_bytes=cache_bytes(config, CACHE_LENGTH, CACHE_BYTES),
    )


def _report(result: SweepResult) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| window | reach | bits per byte | tokens/s in training | cache |"
    yield "|---:|---:|---:|---:|---:|"
    for row in result.rows:
        cells = (
            _spell(row.window),
            "all" if row.reach is None else f"{row.reach:,}",
            f"{row.val_bpb:.4f}",
            f"{row.tokens_per_s:,.0f}",
            f"{row.cache_bytes / 1e6:.2f} MB",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"{result.steps} steps each; bits per byte of validation; cache: keys and values in fp32"
    yield f"after {result.cache_length:,} tokens"


if __name__ == "__main__":
    sys.exit(main())
