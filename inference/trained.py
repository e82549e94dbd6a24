"""TrainedModel: a model, its tokenizer and its config, opened from a checkpoint for use.

Windows, sinks and RoPE scaling carry no parameters. So the same weights can be used under other
settings: `with_settings` builds another model around the same tensors, and reads no file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import config_from_dict
from configs.settings import Config
from data.tokenizer import Tokenizer
from errors import UserError
from model import ModelConfig, Transformer
from model.loss import next_token_loss
from training import checkpoint as checkpoints
from training.checkpoint import Checkpoint
from training.device import keep_freed_memory

# Settings of the model that change no weight: names, shapes and values of all tensors stay.
FREE_SETTINGS = (
    "sliding_window", "attention_sinks", "rope_theta", "rope_theta_local", "rope_scaling",
    "rope_factor", "rope_original_len", "attention",
)  # fmt: skip


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, ready for use: no gradients, evaluation mode."""

    model: Transformer
    tokenizer: Tokenizer
    config: Config
    checkpoint: Checkpoint

    @property
    def bos_id(self) -> int | None:
        """The token at which documents are kept apart, or None if the model was trained without."""
        return self.tokenizer.bos_id if self.config.data.document_mask else None

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token of the model on (B, T) inputs and targets."""
        return next_token_loss(self.model, inputs, targets, self.bos_id)

    def with_settings(self, **changes: Any) -> "TrainedModel":
        """Return the same weights under other settings, such as `sliding_window=16`.

        The tensors are shared, not copied. Raises `UserError` for a setting that changes weights
        or for values that `ModelConfig` refuses.
        """
        for name in changes:
            if name not in FREE_SETTINGS:
                raise UserError(
                    f"{name} cannot change in a trained model: it decides the shape of its "
                    f"weights; free are {', '.join(FREE_SETTINGS)}"
                )
        model = _build(replace(self.model.config, **changes), self.model.state_dict())
        return replace(self, model=model)


def open_trained(
    path: str | Path, which: str = "best", device: torch.device | str = "cpu"
) -> TrainedModel:
    """Open RUN, a run's folder or a checkpoint file, on `device`.

    `which` chooses among the checkpoints of a folder: `best`, `last` or a step. Raises
    `UserError` if it holds no valid checkpoint.
    """
    keep_freed_memory()
    checkpoint = checkpoints.find(Path(path), which)
    config = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
    tokenizer = Tokenizer(checkpoint.tokenizer())
    shape = dict(vars(config.model))
    if config.train.window_schedule != "constant":  # the config does not say the last windows
        shape["sliding_window"] = checkpoint.metadata["windows"]
    architecture = ModelConfig(vocab_size=tokenizer.vocab_size, **shape)
    with torch.device("meta"):  # names and shapes are compared before memory is allocated
        expected = {n: tuple(p.shape) for n, p in Transformer(architecture).named_parameters()}
    weights = checkpoint.weights(expected)
    if architecture.tie_embeddings:
        weights["output.weight"] = weights["tok_embeddings.weight"]
    weights = {name: weight.to(device) for name, weight in weights.items()}
    return TrainedModel(_build(architecture, weights), tokenizer, config, checkpoint)


def _build(architecture: ModelConfig, weights: dict[str, Tensor]) -> Transformer:
    """Build a model around `weights`, which it shares."""
    with torch.device("meta"):
        model = Transformer(architecture)
    model.load_state_dict(weights, assign=True)
    if architecture.tie_embeddings:  # assigned, they are two parameters of one memory
        model.output.weight = model.tok_embeddings.weight
    return model.requires_grad_(False).eval()
