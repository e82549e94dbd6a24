"""Export and import: a model comes back with the same config and the same bits of its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import random_model
from foreign import byte_tokenizer

from arguments import trained_settings
from configs.settings import Config, SampleSettings, TrainSettings
from interop.huggingface import model_files
from interop.huggingface_import import open_folder, shapes_of

pytest.importorskip("transformers", reason="not installed: pip install -e '.[dev]'")

STACKS: dict[str, dict[str, Any]] = {
    "one window": {"sliding_window": 7},
    "full": {"sliding_window": None, "tie_embeddings": True},
    "mixed": {"sliding_window": (7, None), "head_dim": 12},
    "pattern of four": {"sliding_window": (7, 7, 7, None), "rope_theta": 500.0},
    "sink logits": {"sliding_window": (7, None), "sink_logits": True},
    "full, sink logits": {"sliding_window": None, "sink_logits": True},
    "two bases, no sinks": {"sliding_window": (None, 7), "rope_theta_local": 50.0},
    "two bases": {"sliding_window": (None, 7), "sink_logits": True, "rope_theta_local": 50.0},
    "linear": {"sliding_window": 7, "rope_scaling": "linear", "rope_factor": 3.0},
    "yarn": {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 16},
}


@pytest.mark.parametrize("name", STACKS)
def test_export_and_import(name: str, tmp_path: Path) -> None:
    """Rows that are reordered once only, or a setting that is written and not read."""
    model = random_model(vocab_size=270, **STACKS[name])
    files = model_files(
        model.config, model.state_dict(), seq_len=64, sample=SampleSettings(), bos_id=0, eos_id=1
    )
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    byte_tokenizer().save_pretrained(tmp_path)
    back = open_folder(tmp_path)
    assert replace(back.model, attention=model.config.attention) == model.config
    weights = back.weights(shapes_of(back.model))
    for key, weight in model.named_parameters():
        assert torch.equal(weights[key], weight), key
    settings = trained_settings(Config(train=TrainSettings(init_from=str(tmp_path))))
    assert settings["sink_logits"] == model.config.sink_logits
