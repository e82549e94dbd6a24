"""inference/trained.py: other settings, the same tensors, no file, any device."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import reference
import tiny
import torch
from drawn_model import SHAPE, save
from torch import Tensor

from errors import UserError
from inference.trained import FREE_SETTINGS, TrainedModel, open_trained
from model import ModelConfig, Transformer

ROPE = reference.Rope(10_000.0)
# Changes, and what they mean for each of the three layers: windows, sinks, rotations.
CHANGES: dict[str, tuple[dict[str, Any], list[int | None], int, list[reference.Rope]]] = {
    "none": ({}, [4, 4, 4], 0, [ROPE] * 3),
    "a narrower window": ({"sliding_window": 2}, [2, 2, 2], 0, [ROPE] * 3),
    "no window": ({"sliding_window": None}, [None] * 3, 0, [ROPE] * 3),
    "windows by layer": ({"sliding_window": [3, None]}, [3, None, 3], 0, [ROPE] * 3),
    "sinks": ({"attention_sinks": 2}, [4, 4, 4], 2, [ROPE] * 3),
    "another base": ({"rope_theta": 500.0}, [4, 4, 4], 0, [reference.Rope(500.0)] * 3),
    "a base for windows": (
        {"sliding_window": [None, 3], "rope_theta_local": 50.0},
        [None, 3, None], 0, [ROPE, reference.Rope(50.0), ROPE],
    ),
    "linear scaling": (
        {"rope_scaling": "linear", "rope_factor": 2.0},
        [4, 4, 4], 0, [reference.Rope(10_000.0, "linear", 2.0)] * 3,
    ),
    "yarn": (
        {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 8},
        [4, 4, 4], 0, [reference.Rope(10_000.0, "yarn", 4.0, 8)] * 3,
    ),
}  # fmt: skip


def tokens() -> Tensor:
    return torch.arange(3, 15)[None] * 7 % 400


def logits(trained: TrainedModel) -> Tensor:
    with torch.no_grad():
        return trained.model(tokens())[0]


@pytest.mark.parametrize("kind", CHANGES)
def test_every_layer_has_the_settings(trained: TrainedModel, kind: str) -> None:
    """A setting could reach the config but not a layer, or only some layers. The oracle gets the
    windows and rotations of each layer as written in CHANGES."""
    changes, windows, sinks, ropes = CHANGES[kind]
    weights = {name: weight.double() for name, weight in trained.model.named_parameters()}
    expected = reference.logits(
        weights, tokens()[0].tolist(), windows=windows, ropes=ropes, sinks=sinks,
        norm_eps=1e-5, n_heads=2, n_kv_heads=1, head_dim=16,
    )  # fmt: skip
    before = logits(trained)
    changed = trained.with_settings(**changes)
    torch.testing.assert_close(logits(changed).double(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(logits(trained), before)  # the model it came from does not change
    if changes:
        assert not torch.allclose(logits(changed), before, rtol=1e-2, atol=1e-2)


def test_changes_add_up(trained: TrainedModel) -> None:
    """The second change must start from the first, not from the run's config."""
    twice = trained.with_settings(sliding_window=2).with_settings(attention_sinks=1)
    once = trained.with_settings(sliding_window=2, attention_sinks=1)
    assert torch.equal(logits(twice), logits(once))
    assert not torch.equal(logits(twice), logits(trained.with_settings(attention_sinks=1)))


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_shared(tmp_path: Path, tokenizer_bytes: bytes, tied: bool) -> None:
    """A copy for each row of a table of windows would fill the memory with one large model."""
    trained = open_trained(save(tmp_path, tokenizer_bytes, tie_embeddings=tied))
    changed = trained.with_settings(sliding_window=2, attention_sinks=1)
    before, after = (dict(t.model.named_parameters()) for t in (trained, changed))
    assert before.keys() == after.keys()
    assert all(before[name].data_ptr() == after[name].data_ptr() for name in before)
    for model in (trained.model, changed.model):
        assert (model.output.weight is model.tok_embeddings.weight) == tied


def test_no_file_is_read(saved: Path, trained: TrainedModel) -> None:
    """A running training could have deleted the checkpoint in the meantime."""
    saved.unlink()
    assert trained.with_settings(sliding_window=2).model.config.windows == (2, 2, 2)


def test_no_gradients_and_evaluation_mode(trained: TrainedModel) -> None:
    """A graph would be built at every call, and fill the memory."""
    for model in (trained.model, trained.with_settings(sliding_window=2).model):
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())
        assert not model(tokens()).requires_grad


FIXED = [field.name for field in fields(ModelConfig) if field.name not in FREE_SETTINGS]


@pytest.mark.parametrize("name", [*FIXED, "windows", "data.seq_len"])
def test_settings_that_need_other_weights_are_refused(trained: TrainedModel, name: str) -> None:
    """Weights could be used under settings that they were not trained with, or end in a
    traceback."""
    with pytest.raises(UserError, match=f"^{name} cannot be changed in a trained model"):
        trained.with_settings(**{name: 2})


def test_free_settings_are_settings_without_weights() -> None:
    """A setting that is free by mistake would change names or shapes of weights."""
    values: dict[str, Any] = {
        "sliding_window": [2, None], "attention_sinks": 3, "rope_theta": 2.0,
        "rope_theta_local": 3.0, "rope_scaling": "linear", "rope_factor": 2.0,
        "rope_original_len": 5, "attention": "dense",
    }  # fmt: skip
    assert values.keys() == set(FREE_SETTINGS)
    shapes = [
        {name: weight.shape for name, weight in model.state_dict().items()}
        for model in (
            Transformer(ModelConfig(9, **SHAPE)),
            Transformer(ModelConfig(9, **SHAPE, **values)),
        )
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "changes", [{"sliding_window": 0}, {"rope_scaling": "yarn"}, {"attention_sinks": -1}]
)
def test_invalid_values_are_refused(trained: TrainedModel, changes: dict[str, Any]) -> None:
    """The values of a config are checked. Those of `with_settings` must be checked too."""
    with pytest.raises(UserError, match=f"^{next(iter(changes))} "):
        trained.with_settings(**changes)


@pytest.mark.parametrize("tied", [False, True])
def test_any_device(tmp_path: Path, tokenizer_bytes: bytes, tied: bool) -> None:
    """Every weight is on the device that was asked for, also after `with_settings`. The device
    "meta" exists on every machine."""
    trained = open_trained(save(tmp_path, tokenizer_bytes, tie_embeddings=tied), device="meta")
    for opened in (trained, trained.with_settings(sliding_window=2)):
        assert opened.device == torch.device("meta")
        assert {weight.device.type for weight in opened.model.state_dict().values()} == {"meta"}


def test_the_last_windows_of_a_schedule_are_used(finished: Path, tmp_path: Path) -> None:
    """The window at the end of a schedule is in the checkpoint, not in the config."""
    text = tmp_path / "text.txt"
    text.write_text(tiny.english(5000))
    more = ["train.window_schedule=depth", "train.window_from=2", "train.window_steps=3"]
    assert tiny.start(tmp_path / "run", text, "train.max_steps=3", *more) == 0
    trained = open_trained(tmp_path / "run")
    assert trained.config.model.sliding_window == 8
    assert trained.model.config.windows == tuple(trained.checkpoint.metadata["windows"]) != (8, 8)


def test_sampling_is_the_configs(trained: TrainedModel) -> None:
    """A default that is written twice could differ."""
    assert vars(trained.sampling).items() <= vars(trained.config.sample).items()
