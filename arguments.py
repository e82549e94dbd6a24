"""The arguments that commands share: CONFIG with its overrides, and RUN with its checkpoint.

A command declares them with `add_config` or `add_run`, and reads them with `read_config` or
`open_run`. `train.init_from` of a config names a trained model: a run of Breeze, a checkpoint, or a
folder of Hugging Face. `open_initial` opens it.
"""

from __future__ import annotations

import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import QUICKSTART, config_from_dict, load_config, split_arguments
from configs.settings import Config
from configs.spelling import advice
from errors import ArgumentParser, UserError

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from inference.trained import TrainedModel
    from interop.huggingface_import import ForeignModel
    from training.checkpoint import Checkpoint

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


def read_config(
    arguments: Namespace, overrides: Sequence[str] = (), *, resume: bool = False
) -> Config:
    """Load the config that the user named; `overrides` of the command are applied last.

    If the user named a trained model in train.init_from, the config gets its model's settings. With
    `resume` they are those of the run itself, if it has a checkpoint. Raises `UserError` with every
    error in the file and on the command line.
    """
    path, given = split_arguments(arguments.words)
    return load_config(path, [*given, *overrides], partial(trained_settings, resume=resume))


def trained_settings(config: Config, resume: bool = False) -> Mapping[str, Any]:
    """Return the section `model` of the weights that train.init_from names, and their vocabulary,
    `vocab_size`, for `load_config`.

    With `resume` it is that of the run's own checkpoint, if there is one. Raises `UserError` if
    there are no such weights.
    """
    from interop.huggingface_config import is_model_folder
    from training.run_folder import find, newest

    initial = Path(config.train.init_from or "")
    with redirect_stderr(io.StringIO()):  # the notes are printed when the weights are read
        checkpoint = newest(config.folder / "checkpoints") if resume else None
        if checkpoint is not None:
            recorded = _recorded_config(checkpoint)
            return vars(recorded.model) | {"vocab_size": recorded.tokenizer.vocab_size}
        if is_model_folder(initial):
            from interop.huggingface_import import open_folder

            foreign = open_folder(initial).config
            return foreign.settings | {"vocab_size": foreign.model.vocab_size}
        checkpoint = find(initial)
    recorded = _recorded_config(checkpoint)
    settings = vars(recorded.model) | {"vocab_size": checkpoint.vocab_size}
    if recorded.train.window_schedule != "constant":  # the config has the windows of its end
        settings["sliding_window"] = checkpoint.windows
    return settings


def _recorded_config(checkpoint: Checkpoint) -> Config:
    return config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))


def open_initial(config: Config) -> Checkpoint | ForeignModel | None:
    """Open the trained model from whose weights a run starts; None if they are drawn.

    Raises `UserError` if there is none, or if Breeze cannot carry it.
    """
    if config.train.init_from is None:
        return None
    path = Path(config.train.init_from)
    from interop.huggingface_config import is_model_folder

    if is_model_folder(path):
        from interop.huggingface_import import open_folder

        return open_folder(path)
    from training.run_folder import find

    return find(path)


def locate_run(words: Sequence[str]) -> list[str]:
    """Return `words`, with `run_dir=FOLDER` added if CONFIG is FOLDER/config.yaml or FOLDER.

    FOLDER is the folder of a run. Its config.yaml records where the run was started, but the folder
    may have been moved or copied since. A `run_dir` among the words is kept. Raises `UserError` if
    CONFIG is a checkpoint.
    """
    config, overrides = split_arguments(words)
    path = Path(config)
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path} is a checkpoint, not a config: to resume a run name its folder; to start a "
            f"new run from these weights add train.init_from={path} to a config"
        )
    if path.is_dir():
        path = path / "config.yaml"
    is_run = path.name == "config.yaml" and (path.parent / "checkpoints").is_dir()
    if is_run and not any(word.startswith("run_dir=") for word in overrides):
        overrides = [f"run_dir={path.parent}", *overrides]
    return [str(path), *overrides]


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
    from training.run_folder import find

    checkpoint = find(Path(path or arguments.run), arguments.checkpoint)
    from inference.trained import open_checkpoint

    return open_checkpoint(checkpoint)
