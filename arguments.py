"""The arguments that commands share: CONFIG with its overrides, and RUN with its checkpoint.

A command declares them with `add_config` or `add_run`, and reads them with `read_config` or
`open_run`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.load import QUICKSTART, load_config, split_arguments
from configs.settings import Config
from configs.spelling import advice
from errors import ArgumentParser

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from inference.trained import TrainedModel

DEFAULT_RUN = "runs/quickstart"


def add_config(parser: ArgumentParser) -> None:
    """Declare `[CONFIG] [section.key=value ...]`, in any order."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[CONFIG] [section.key=value ...]",
        help=f"a YAML file (default {QUICKSTART}) and changes to it",
    )
    parser.advise = advice


def read_config(arguments: Namespace, overrides: Sequence[str] = ()) -> Config:
    """Load the config that the user named; `overrides` of the command are applied last.

    Raises `UserError` with every error in the file and on the command line.
    """
    path, given = split_arguments(arguments.words)
    return load_config(path, [*given, *overrides])


def add_run(parser: ArgumentParser, *, several: bool = False) -> None:
    """Declare `[RUN]`, or `[RUN ...]`, and `--checkpoint`."""
    parser.add_argument(
        "runs" if several else "run",
        nargs="*" if several else "?",
        default=[DEFAULT_RUN] if several else DEFAULT_RUN,
        metavar="RUN",
        help=f"the folder of a run or a checkpoint file (default {DEFAULT_RUN})",
    )
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|last|STEP",
        help="which checkpoint of a run's folder to use (default best: lowest validation loss)",
    )


def open_run(arguments: Namespace, path: str | None = None) -> TrainedModel:
    """Open the model of RUN, or of `path` if there are several.

    Raises `UserError` if there is no such run or checkpoint; this needs no torch.
    """
    from training.checkpoint import find

    checkpoint = find(Path(path or arguments.run), arguments.checkpoint)
    from inference.trained import open_checkpoint

    return open_checkpoint(checkpoint)
