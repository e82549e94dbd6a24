"""interop/huggingface_import.py: a model of transformers computes the same logits in Breeze.

`pytest -s` prints the largest differences.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import WINDOW, change_config, save_foreign

from interop.huggingface_config import foreign_config
from interop.huggingface_import import ForeignModel, open_folder, shapes_of
from model.transformer import Transformer

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e '.[dev]'"
)

MIXED = ["sliding_attention", "full_attention"] * 2
GRANITE = {
    "attention_multiplier": 8**-0.5,
    "layer_types": MIXED,
    "layer_rope_theta": [100.0, 5000.0] * 2,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mistral": ("Mistral", {}),
    "Mistral, full attention": ("Mistral", {"sliding_window": None}),
    "tied": ("Mistral", {"tie_word_embeddings": True}),
    "wide heads": ("Mistral", {"head_dim": 12, "num_key_value_heads": 4}),
    "bf16 in shards": ("Mistral", {"dtype": torch.bfloat16, "shard": "20KB"}),
    "fp16": ("Mistral", {"dtype": torch.float16}),
    "yarn": ("Mistral", {"rope_parameters": YARN | {"rope_theta": 1e4}}),
    "Llama": ("Llama", {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "linear",
              "factor": 3.0, "rope_theta": 500.0}}),
    "Ministral, mixed": ("Ministral", {"layer_types": MIXED}),
    "GraniteSWA": ("GraniteSWA", GRANITE),
}  # fmt: skip


def load_model(foreign: ForeignModel) -> Transformer:
    """Return Breeze's model with the weights of `foreign`."""
    model = Transformer(foreign.model)
    model.load_state_dict(foreign.weights(shapes_of(foreign.model)), strict=False)
    return model.eval()


@torch.no_grad()
def difference(folder: Path, model: Transformer) -> float:
    """Return the largest difference of logits to transformers, on 3 W + 5 tokens."""
    other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (1, 3 * WINDOW + 5), generator=generator)
    return (model(tokens) - other(tokens).logits).abs().max().item()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Rows in the wrong order, a window of another size or in the wrong layers, a lost shard, a
    norm, a base or a sink that is not read."""
    family, changes = MODELS[name]
    folder = save_foreign(tmp_path, family, **changes)
    if name == "bf16 in shards":
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    model = load_model(open_folder(folder))
    found = difference(folder, model)
    print(f"{name}: {found:.1e}")
    assert found < 5e-5
    if set(model.config.windows) != {None}:
        model.set_windows(None)
        assert difference(folder, model) > 0.05  # the window matters on these tokens


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 200.0},
        {"rope_theta": 200.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": YARN, "max_position_embeddings": 64},
    ],
    ids=str,
)
def test_the_keys_of_earlier_versions_are_read(rope: dict[str, Any], tmp_path: Path) -> None:
    """Before version 5, RoPE was described by rope_theta and rope_scaling. Unread, the base would
    be the default."""
    folder = save_foreign(tmp_path)
    change_config(folder, remove=("rope_parameters",), **rope)
    assert difference(folder, load_model(open_folder(folder))) < 5e-5


def test_missing_keys_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    """The window of a Mistral without the key is 4,096, not null; other sizes could differ too."""
    classes = {"Mistral": {}, "Ministral": {"head_dim": 128}, "Llama": {}, "GraniteSWA": {}}
    for family, changes in classes.items():
        theirs = getattr(transformers, f"{family}Config")(**changes)
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        values = {key: getattr(theirs, key) for key in ("vocab_size", *sizes)} | changes
        scale = (theirs.hidden_size / theirs.num_attention_heads) ** -0.5
        ours = foreign_config(
            values | {"architectures": [f"{family}ForCausalLM"], "attention_multiplier": scale}
        ).model
        assert ours.n_kv_heads == theirs.num_key_value_heads
        assert ours.norm_eps == theirs.rms_norm_eps
        assert ours.tie_embeddings == theirs.tie_word_embeddings
        assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
        kinds = getattr(theirs, "layer_types", None)
        window = getattr(theirs, "sliding_window", None)
        kinds = kinds or ["sliding_attention"] * ours.n_layers
        assert ours.windows == tuple(window if "sliding" in kind else None for kind in kinds)
