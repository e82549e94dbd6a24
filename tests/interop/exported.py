"""Models for the tests of this folder, in which every weight matters.

A fresh model of Breeze adds zeros to the residual stream, so its windows change nothing.
"""

import shutil
from pathlib import Path
from typing import Any

from inference.trained import open_trained
from interop import matrix
from model.transformer import Transformer
from training.checkpoint import save
from training.run_folder import find


def random_model(**settings: Any) -> Transformer:
    """Return a small model with large random weights."""
    return matrix.random_model(settings)


def save_random_run(run: Path, copy: Path) -> Path:
    """Copy a finished run, and give its only checkpoint random weights; return `copy`."""
    shutil.copytree(run, copy)
    checkpoint, trained = find(run), open_trained(run)
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    metadata = {k: v for k, v in checkpoint.metadata.items() if k not in ("format", "step")}
    save(
        copy / "checkpoints",
        checkpoint.step,
        weights=dict(matrix.randomized(trained.model).named_parameters()),
        moments={},
        tokenizer=checkpoint.tokenizer(),
        metadata=metadata,
    )
    return copy
