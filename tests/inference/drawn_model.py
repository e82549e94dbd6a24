"""A small model with drawn weights, saved as a checkpoint without any training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from configs.settings import Config, ModelSettings
from data.tokenizer import open_tokenizer
from model import ModelConfig, Transformer
from training import checkpoint

SHAPE: dict[str, Any] = {
    "dim": 32, "n_layers": 3, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "hidden_dim": 64,
}  # fmt: skip


def save(folder: Path, tokenizer: bytes, **settings: Any) -> Path:
    """Save a model with drawn weights; returns the checkpoint file."""
    config = replace(Config(), model=ModelSettings(**SHAPE, sliding_window=4, **settings))
    torch.manual_seed(0)
    vocab_size = open_tokenizer(tokenizer).vocab_size
    model = Transformer(ModelConfig(vocab_size=vocab_size, **vars(config.model)))
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.3)
    return checkpoint.save(
        folder,
        7,
        weights=dict(model.named_parameters()),
        moments={},
        tokenizer=tokenizer,
        metadata={"config": config.to_dict(), "data_hash": "00", "windows": [4, 4, 4]},
    )
