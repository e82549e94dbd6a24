"""The weights of a checkpoint, with the adapters of a run with LoRA or merged with them."""

from torch import Tensor

from configs.load import config_from_dict
from configs.settings import lora_config
from model.adapters import merged_weights
from model.config import LoraConfig, ModelConfig
from model.transformer import empty_model
from training.checkpoint import Checkpoint


def read_weights(checkpoint: Checkpoint, architecture: ModelConfig) -> dict[str, Tensor]:
    """Read the weights of a model without adapters; those of a run with LoRA are merged.

    Raises `UserError` if they are not of this architecture. That is decided before memory is
    allocated for them.
    """
    lora = adapters_of(checkpoint)
    weights = read_unmerged(checkpoint, architecture, lora)
    return weights if lora is None else merged_weights(weights, lora.scale)


def read_unmerged(
    checkpoint: Checkpoint, architecture: ModelConfig, lora: LoraConfig | None
) -> dict[str, Tensor]:
    """Read the weights and the adapters as they are. Raises `UserError` as `read_weights` does."""
    expected: dict[str, tuple[int, ...]] = {
        name: tuple(weight.shape) for name, weight in empty_model(architecture).named_parameters()
    }
    if lora is not None:
        expected |= lora.shapes(architecture)
    return checkpoint.weights(expected)


def adapters_of(checkpoint: Checkpoint) -> LoraConfig | None:
    """Return the adapters that the run trained; None if it trained the weights themselves."""
    return lora_config(config_from_dict(checkpoint.metadata["config"], str(checkpoint.path)))
