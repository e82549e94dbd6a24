"""Models for the tests of this folder, in which every weight matters.

A fresh model of Breeze adds zeros to the residual stream, so its windows change nothing.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from inference.trained import open_trained
from model.config import ModelConfig
from model.transformer import Transformer
from training.checkpoint import find, save


def random_model(**settings: Any) -> Transformer:
    """Return a small model with large random weights."""
    shape: dict[str, Any] = {
        "vocab_size": 97, "dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2,
    }  # fmt: skip
    return randomized(Transformer(ModelConfig(**(shape | settings))))


def randomized(model: Transformer) -> Transformer:
    """Draw all weights of a model from seed 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5 if weight.dim() == 1 else 1.5 * weight.shape[-1] ** -0.5)
    return model.requires_grad_(False).eval()


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
        weights=dict(randomized(trained.model).named_parameters()),
        moments={},
        tokenizer=checkpoint.tokenizer(),
        metadata=metadata,
    )
    return copy
