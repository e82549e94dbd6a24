"""The weights of a trained model, with the adapters of a run with LoRA or merged with them."""

from typing import Protocol

from torch import Tensor

from configs.load import config_from_dict
from configs.settings import lora_config
from model.adapters import merged_weights
from model.config import LoraConfig, ModelConfig
from model.transformer import weight_shapes
from training.checkpoint import Checkpoint, Shapes


class TrainedWeights(Protocol):
    """What a run starts from: a checkpoint, or a model of others (`interop/`)."""

    def tokenizer(self) -> bytes: ...
    def weights(self, expected: Shapes) -> dict[str, Tensor]: ...


def read_weights(trained: TrainedWeights, architecture: ModelConfig) -> dict[str, Tensor]:
    """Read the weights of a model without adapters; those of a run with LoRA are merged.

    Raises `UserError` if they are not of this architecture. That is decided before memory is
    allocated for them.
    """
    lora = adapters_of(trained)
    weights = read_unmerged(trained, architecture, lora)
    return weights if lora is None else merged_weights(weights, lora.scale)


def read_unmerged(
    trained: TrainedWeights, architecture: ModelConfig, lora: LoraConfig | None
) -> dict[str, Tensor]:
    """Read the weights and the adapters as they are. Raises `UserError` as `read_weights` does."""
    expected = weight_shapes(architecture)
    if lora is not None:
        expected |= lora.shapes(architecture)
    return trained.weights(expected)


def adapters_of(trained: TrainedWeights) -> LoraConfig | None:
    """Return the adapters that the run trained; None if it trained the weights themselves."""
    if not isinstance(trained, Checkpoint):
        return None
    return lora_config(config_from_dict(trained.metadata["config"], str(trained.path)))
