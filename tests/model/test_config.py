"""ModelConfig: invalid values, counts of weights, and the effect of every field."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from small import build, config, text
from torch import Tensor

from errors import UserError
from model import kernels
from model.config import ModelConfig
from model.transformer import Transformer

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("vocab_size", {"vocab_size": 0}),
    ("dim", {"dim": 0}),
    ("n_layers", {"n_layers": 0}),
    ("n_heads", {"n_heads": 0}),
    ("n_kv_heads", {"n_kv_heads": 0}),
    ("n_kv_heads", {"n_heads": 3}),
    ("n_kv_heads", {"n_kv_heads": 8}),
    ("n_heads", {"dim": 18}),
    ("head_dim", {"head_dim": 3}),
    ("head_dim", {"head_dim": 0}),
    ("head_dim", {"dim": 12}),
    ("hidden_dim", {"hidden_dim": 0}),
    ("sliding_window", {"sliding_window": 0}),
    ("sliding_window", {"sliding_window": [3, -1]}),
    ("sliding_window", {"sliding_window": []}),
    ("sliding_window", {"sliding_window": [1, 2, 3, 4]}),
    ("attention_sinks", {"attention_sinks": -1}),
    ("rope_theta", {"rope_theta": 1.0}),
    ("rope_theta", {"rope_theta": float("nan")}),
    ("rope_theta", {"rope_theta": float("inf")}),
    ("rope_theta_local", {"rope_theta_local": 1.0}),
    ("rope_theta_local", {"rope_theta_local": float("nan")}),
    ("rope_scaling", {"rope_scaling": "dynamic"}),
    ("rope_factor", {"rope_factor": 0.5}),
    ("rope_factor", {"rope_factor": float("nan")}),
    ("rope_original_len", {"rope_original_len": 0}),
    ("rope_original_len", {"rope_scaling": "yarn", "rope_factor": 2.0}),
    ("norm_eps", {"norm_eps": 0.0}),
    ("norm_eps", {"norm_eps": float("nan")}),
    ("attention", {"attention": "flash"}),
]


@pytest.mark.parametrize(("field", "wrong"), REFUSED)
def test_refusals_name_the_field(field: str, wrong: dict[str, Any]) -> None:
    """The user would get a shape error from inside torch, or NaN, and not the name of the field."""
    with pytest.raises(UserError, match=rf"\b{field}\b") as caught:
        config(**wrong)
    assert field in (caught.value.field, *caught.value.others)
    assert str(caught.value).startswith(f"{caught.value.field} ")


def test_derived_sizes() -> None:
    """None must give the size in the field's comment."""
    derived = ModelConfig(vocab_size=8, dim=100, n_heads=5, n_kv_heads=1)
    assert (derived.head_dim, derived.hidden_dim) == (20, 288)  # 8/3 * 100 = 266.7, up to 32s
    assert ModelConfig(vocab_size=8, dim=96, n_heads=4).hidden_dim == 256  # already a multiple


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"tie_embeddings": True}, {"head_dim": 6}, {"n_kv_heads": 1}, {"hidden_dim": None}),
        *({"sink_token": True}, {"sink_logits": True}),
    ],
)
def test_parameter_counts_are_those_of_the_module(changes: dict[str, Any]) -> None:
    """`plan` would print a size that the trained model does not have."""
    model = Transformer(config(**changes))
    counted = dict.fromkeys(model.config.parameter_counts(), 0)
    for name, weight in model.named_parameters():
        part = next((part for part in counted if f"{part}." in f".{name}"), "norms")
        part = "sinks" if "sink" in name else part
        counted[part] += weight.numel()
    assert counted == model.config.parameter_counts()


def test_sinks_are_counted_with_the_token() -> None:
    """A model with both kinds of sinks would keep one position too few."""
    cases = [(0, False, 0), (3, False, 3), (0, True, 1), (3, True, 4)]
    for first, token, sinks in cases:
        assert config(attention_sinks=first, sink_token=token).sinks == sinks


def logits_with(changes: dict[str, Any]) -> Tensor:
    """Return logits from the same random weights with another config."""
    with torch.no_grad():
        return build(**changes)(text(12))


# Field: (settings under which it has an effect, its change).
YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 64, "head_dim": 16}
EFFECTIVE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "n_heads": ({}, {"n_heads": 2, "n_kv_heads": 1, "head_dim": 8}),
    "sliding_window": ({}, {"sliding_window": 4}),
    "attention_sinks": ({}, {"attention_sinks": 1}),
    "sink_token": ({}, {"sink_token": True}),
    "sink_logits": ({}, {"sink_logits": True}),
    "rope_theta": ({}, {"rope_theta": 20_000.0}),
    "rope_theta_local": ({}, {"rope_theta_local": 20_000.0}),
    "rope_scaling": (YARN, {"rope_scaling": "linear"}),
    "rope_factor": (YARN, {"rope_factor": 3.0}),
    "rope_original_len": (YARN, {"rope_original_len": 900}),
    "norm_eps": ({}, {"norm_eps": 1e-4}),
    "tie_embeddings": ({}, {"tie_embeddings": True}),
}
SHAPES = ("vocab_size", "dim", "n_layers", "n_kv_heads", "head_dim", "hidden_dim")
LARGER = {"n_kv_heads": 4, "n_layers": 4, "dim": 24, "head_dim": 6}


@pytest.mark.parametrize("field", EFFECTIVE)
def test_a_setting_changes_the_logits(field: str) -> None:
    """A setting could have no effect on the model."""
    base, changes = EFFECTIVE[field]
    difference = (logits_with(base | changes) - logits_with(base)).abs().max().item()
    assert difference > 1e-5


@pytest.mark.parametrize("field", SHAPES)
def test_a_size_changes_the_weights(field: str) -> None:
    """A size could have no effect on the weights."""
    sizes = [
        {name: weight.shape for name, weight in build(**changes).state_dict().items()}
        for changes in ({}, {field: LARGER.get(field, 50)})
    ]
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize(
    ("attention", "called"),
    [("dense", "dense"), ("blocked", "blocked"), ("flex", "flex"), ("auto", "blocked")],
)
def test_attention_decides_the_kernel(
    attention: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention with a window would compute all T * T scores, and no output would show it."""
    calls = []
    for name, kernel in kernels.KERNELS.items():

        def recorded(*args: Any, name: str = name, kernel: Any = kernel, **options: Any) -> Any:
            calls.append(name)
            return kernel(*args, **options)

        monkeypatch.setitem(kernels.KERNELS, name, recorded)
    with torch.no_grad():
        build(attention=attention)(text(12))
    assert calls == [called] * 3


def test_every_field_is_tested() -> None:
    """A new setting could have no effect and no test."""
    assert {*EFFECTIVE, *SHAPES, "attention"} == {field.name for field in fields(ModelConfig)}
