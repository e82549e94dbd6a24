"""The architecture: a Mistral-style decoder. It knows nothing of files, text, YAML or training.

Shape letters in all comments of this folder:

    B batch          D dim                    V vocab_size
    T query length   H query heads            W sliding window (keys)
    S key length     K key/value heads        C block of queries
    N blocks         G = H / K queries per key head
                     Dh head_dim

The names below are imported on first use, so that reading a config does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.cache import RollingKVCache
    from model.config import ModelConfig
    from model.generation import generate
    from model.sampling import Sampling
    from model.transformer import Transformer

__all__ = ["ModelConfig", "RollingKVCache", "Sampling", "Transformer", "generate"]

_HOMES = {
    "ModelConfig": "model.config",
    "RollingKVCache": "model.cache",
    "Sampling": "model.sampling",
    "Transformer": "model.transformer",
    "generate": "model.generation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
