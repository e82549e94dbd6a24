"""The weights of a checkpoint as those of a model without adapters."""

from torch import Tensor

from configs.load import config_from_dict
from configs.settings import lora_config
from model.adapters import merged_weights
from model.config import ModelConfig
from model.transformer import empty_model
from training.checkpoint import Checkpoint


def read_weights(checkpoint: Checkpoint, architecture: ModelConfig) -> dict[str, Tensor]:
    """Read the weights; the adapters of a run with LoRA are merged into them.

    Raises `UserError` if they are not of this architecture. That is decided before memory is
    allocated for them.
    """
    expected: dict[str, tuple[int, ...]] = {
        name: tuple(weight.shape) for name, weight in empty_model(architecture).named_parameters()
    }
    lora = lora_config(config_from_dict(checkpoint.metadata["config"], str(checkpoint.path)))
    if lora is None:
        return checkpoint.weights(expected)
    return merged_weights(checkpoint.weights(expected | lora.shapes(architecture)), lora.scale)
