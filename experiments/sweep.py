"""What does a window cost, and what does it lose? `python -m experiments.sweep`

Trains the same config once for each window and prints one table: the reach through all layers, bits
per byte of validation, training speed, and the cache that generation needs. The runs are kept in a
folder and are not trained again.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import QUICKSTART, load_config, split_arguments
from configs.settings import Config
from errors import ArgumentParser, UserError, command
from model.cost import cache_bytes
from model.window import reach

LENGTH = 8_192  # tokens of text for which the cache is counted


@dataclass(frozen=True)
class Row:
    """What one window came to."""

    window: str
    reach: str
    bpb: float
    tokens_per_s: float
    cache: int


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train where needed, then print the table in Markdown."""
    parser = ArgumentParser(
        prog="python -m experiments.sweep",
        description="Train one config under several windows and compare quality, speed and memory.",
        epilog="example: python -m experiments.sweep --windows 4 64 full --steps 100",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[CONFIG] [section.key=value ...]",
        help=f"a YAML file (default {QUICKSTART}) and changes to it",
    )
    parser.add_argument(
        "--windows",
        nargs="+",
        default=["1", "4", "16", "64", "full"],
        metavar="W",
        help="windows to compare: numbers or `full`",
    )
    parser.add_argument("--steps", type=int, default=150, help="training steps for each (150)")
    parser.add_argument("--folder", default="runs/sweep", help="where the runs are kept")
    arguments = parser.parse_args(argv)
    path, overrides = split_arguments(arguments.words)
    for window in arguments.windows:
        if window != "full" and not (window.isdecimal() and int(window) >= 1):
            raise UserError(f"--windows {window}: give numbers of keys from 1, or `full`")
    print("| window | reach | bits per byte | tokens/s in training | cache |")
    print("|---:|---:|---:|---:|---:|", flush=True)
    for window in arguments.windows:
        folder = Path(arguments.folder) / f"window-{window}"
        config = load_config(path, [
            *overrides,
            f"train.max_steps={arguments.steps}",
            f"train.eval_interval={arguments.steps}",
            f"train.save_interval={arguments.steps}",
            f"model.sliding_window={'null' if window == 'full' else window}",
            f"run_dir={folder}",
        ])  # fmt: skip
        row = measure(config, window)
        size = f"{row.cache / 1e6:.2f} MB"
        print(f"| {row.window} | {row.reach} | {row.bpb:.4f} | {row.tokens_per_s:,.0f} | {size} |",
              flush=True)  # fmt: skip
    print(f"\n{arguments.steps} steps each; bits per byte: validation; cache: keys and values in")
    print(f"fp32 after {LENGTH:,} tokens")
    return 0


def measure(config: Config, window: str) -> Row:
    """Train `config`, unless its folder holds the finished run, and read what came of it."""
    from inference.trained import open_trained
    from train import train

    with contextlib.redirect_stdout(sys.stderr):
        code = train(config, resume=True)
    if code:
        raise UserError(f"the run in {config.folder} did not finish (exit code {code})")
    lines = (config.folder / "metrics.jsonl").read_text().splitlines()
    measured: dict[str, float] = {}
    for line in lines:
        measured |= json.loads(line)
    shape = open_trained(config.folder).model.config
    seen = reach(shape.windows)
    return Row(
        window=window,
        reach="all" if seen is None else f"{seen:,}",
        bpb=measured["val_bpb"],
        tokens_per_s=measured["tokens_per_s"],
        cache=cache_bytes(shape, LENGTH, 4),
    )


if __name__ == "__main__":
    sys.exit(main())
