"""TrainedModel: a model, its tokenizer and its config, opened from a checkpoint.

Windows, sinks and RoPE scaling have no weights. So the same weights can be used under other
settings: `with_settings` builds another model around the same tensors, and reads no file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import config_from_dict
from configs.settings import Config
from data.tokenizer import Tokenizer, open_tokenizer
from errors import UserError, located
from inference.text import configured_sampling
from inference.weights import read_weights
from model import ModelConfig, Sampling, Transformer
from model.loss import next_token_loss
from model.quantization import round_weights
from model.transformer import empty_model
from training.checkpoint import Checkpoint
from training.device import keep_freed_memory
from training.run_folder import find

# The model's settings under which names, shapes and values of all weights stay the same.
FREE_SETTINGS = (
    "sliding_window", "attention_sinks", "rope_theta", "rope_theta_local", "rope_scaling",
    "rope_factor", "rope_original_len", "attention",
)  # fmt: skip


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in evaluation mode, without gradients. Adapters (LoRA) are merged.

    `model.config` has the model's present settings. `config` and `checkpoint` describe the run
    that trained it, and `with_settings` does not change them.
    """

    model: Transformer
    tokenizer: Tokenizer
    config: Config
    checkpoint: Checkpoint

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.tok_embeddings.weight.device

    @property
    def bos_id(self) -> int | None:
        """The token that begins a document, or None if training did not mask other documents."""
        return self.tokenizer.bos_id if self.config.data.document_mask else None

    @property
    def sampling(self) -> Sampling:
        """The sampling that the config's section `sample` describes."""
        return configured_sampling(self.config.sample)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token of the model on (B, T) inputs and targets."""
        return next_token_loss(self.model, inputs, targets, self.bos_id)

    def with_settings(self, **changes: Any) -> "TrainedModel":
        """Return the same weights under other settings, such as `sliding_window=16`.

        The tensors are shared, not copied, and this model does not change. Raises `UserError` for
        a setting that is not in `FREE_SETTINGS` and for a value that `ModelConfig` refuses.
        """
        for name in changes:
            if name not in FREE_SETTINGS:
                raise UserError(
                    f"{name} cannot be changed in a trained model; these settings can: "
                    f"{', '.join(FREE_SETTINGS)}",
                    name,
                )
        model = _build(replace(self.model.config, **changes), self.model.state_dict())
        return replace(self, model=model)

    def rounded(self) -> "TrainedModel":
        """Return the model that is computed with int8 weights (see `model.quantization`)."""
        return replace(self, model=round_weights(self.model))


def open_trained(
    path: str | Path, which: str = "best", device: torch.device | str = "cpu"
) -> TrainedModel:
    """Open a run's folder or a checkpoint file, and put the weights on `device`.

    `which` chooses among the checkpoints of a folder: `best`, `last` or a step. The windows are
    those of the last training step. Raises `UserError` if there is no valid checkpoint.
    """
    return open_checkpoint(find(Path(path), which), device)


def open_checkpoint(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> TrainedModel:
    """Open a checkpoint, and put the weights on `device`. Otherwise like `open_trained`."""
    keep_freed_memory()
    config = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
    settings = dict(vars(config.model))
    if config.train.window_schedule != "constant":  # the config has the windows of its end
        settings["sliding_window"] = checkpoint.windows
    with located(checkpoint.path):
        tokenizer = open_tokenizer(checkpoint.tokenizer())
        architecture = ModelConfig(vocab_size=tokenizer.vocab_size, **settings)
    weights = {n: w.to(device) for n, w in read_weights(checkpoint, architecture).items()}
    if architecture.tie_embeddings:
        weights["output.weight"] = weights["tok_embeddings.weight"]
    return TrainedModel(_build(architecture, weights), tokenizer, config, checkpoint)


def _build(architecture: ModelConfig, weights: dict[str, Tensor]) -> Transformer:
    """Build a model around `weights`; it shares their memory."""
    model = empty_model(architecture)
    model.load_state_dict(weights, assign=True)
    if architecture.tie_embeddings:  # `assign` made two parameters that share one memory
        model.output.weight = model.tok_embeddings.weight
    return model.requires_grad_(False).eval()
