"""The same weights in transformers' MistralForCausalLM: another team's reading of the paper."""

from typing import Any

import pytest
import torch
from small import build, text
from torch import Tensor

from model.transformer import Transformer

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e '.[dev]'"
)

PARTS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def half_split(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder rows from pairs (2n, 2n + 1) to pairs (n, n + Dh / 2), as transformers rotates."""
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
    return weight.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)


def theirs(model: Transformer) -> Any:
    """Build MistralForCausalLM with the same shape and weights."""
    shape = model.config
    settings = transformers.MistralConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,  # read by version 4
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},  # since 5
        sliding_window=shape.sliding_window,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    other = transformers.MistralForCausalLM(settings).double().eval()
    weights = model.state_dict()
    renamed = {name: weights[ours] for ours, name in OUTER.items()}
    for n in range(shape.n_layers):
        for ours, name in PARTS.items():
            weight = weights[f"layers.{n}.{ours}.weight"]
            if ours in ("attention.wq", "attention.wk"):
                weight = half_split(weight, shape.head_dim)  # type: ignore[arg-type]
            renamed[f"model.layers.{n}.{name}.weight"] = weight
    other.load_state_dict(renamed, strict=True)
    return other


CHANGES: list[dict[str, Any]] = [{}, {"head_dim": 6, "rope_theta": 1e6}, {"n_kv_heads": 1}]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("window", [1, 2, 3, 7, 40, None])
@torch.no_grad()
def test_logits_at_three_windows_and_through_their_own_cache(
    window: int | None, changes: dict[str, Any]
) -> None:
    """Our reading of the window, the rotation or a norm is not Mistral's."""
    model = build(window, **changes)
    other = theirs(model)
    tokens = text(3 * (window or 8))
    expected = model(tokens)
    # Their RMSNorm and softmax are fp32 even in a float64 model.
    torch.testing.assert_close(other(tokens).logits, expected, rtol=0, atol=2e-5)
    if window == 1:
        return  # their cache keeps states[-(W - 1) :], which for W = 1 is all of them (5.23)
    cache = transformers.DynamicCache(config=other.config)  # a sliding one where there is a window
    steps = [
        other(token, past_key_values=cache, use_cache=True).logits
        for token in tokens[:, :24].split(1, dim=1)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected[:, :24], rtol=0, atol=2e-5)
