"""The same weights in transformers, an independent implementation of the papers.

MistralForCausalLM has one window for all layers, MinistralForCausalLM layers with and without.
`pytest -s` prints the largest differences.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import build, text
from torch import Tensor

from interop.names import huggingface_weights
from model import Sampling, generate, kernels
from model.rope import Rope, frequencies
from model.transformer import Transformer

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e '.[dev]'"
)

GREEDY = Sampling(temperature=0.0)


def theirs(model: Transformer) -> Any:
    """Build the same model in transformers: Ministral if only some layers have a window."""
    shape = model.config
    family, more = transformers.MistralConfig, {"sliding_window": shape.sliding_window}
    if isinstance(shape.sliding_window, tuple):
        (width,) = {window for window in shape.sliding_window if window is not None}
        kinds = ["full_attention" if w is None else "sliding_attention" for w in shape.windows]
        family, more = transformers.MinistralConfig, {"sliding_window": width, "layer_types": kinds}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rope_theta}
    if shape.rope_scaling != "none":
        rope |= {"rope_type": shape.rope_scaling, "factor": shape.rope_factor}
    if shape.rope_scaling == "yarn":
        rope |= {"original_max_position_embeddings": shape.rope_original_len}
    settings = family(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,  # read by version 4
        rope_parameters=rope,  # since 5
        tie_word_embeddings=False,
        attn_implementation="eager",
        **more,
    )
    other = transformers.AutoModelForCausalLM.from_config(settings).double().eval()
    other.set_attn_implementation("eager")
    other.load_state_dict(huggingface_weights(model.state_dict(), shape), strict=True)
    return other


def agree(name: str, ours: Tensor, other: Tensor) -> None:
    """Print the largest difference and bound it. In transformers, RMSNorm, softmax and angles are
    in fp32 even in a float64 model."""
    print(f"{name}: {(ours - other).abs().max().item():.1e}")
    torch.testing.assert_close(other, ours, rtol=0, atol=2e-5)


CHANGES: list[dict[str, Any]] = [{}, {"head_dim": 6, "rope_theta": 1e6}, {"n_kv_heads": 1}]
STACKS = [1, 2, 3, 7, 40, None, (3, None), (None, 7, 7)]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("window", STACKS, ids=str)
@torch.no_grad()
def test_logits_at_three_windows_and_through_their_own_cache(
    window: Any, changes: dict[str, Any]
) -> None:
    """Window, rotation or norm could differ from Mistral's; a mixed stack could have the window in
    the wrong layers."""
    model = build(window, **changes)
    other = theirs(model)
    family = type(other).__name__
    width = max((w for w in model.config.windows if w is not None), default=8)
    tokens = text(3 * width)
    expected = model(tokens)
    agree(f"{family}, W = {window}, {changes}: logits at T = 3W", expected, other(tokens).logits)
    if window == 1:
        return  # their cache keeps states[-(W - 1) :], which for W = 1 are all states
    cache = transformers.DynamicCache(config=other.config)  # a sliding one where there is a window
    steps = [
        other(token, past_key_values=cache, use_cache=True).logits
        for token in tokens[:, :24].split(1, dim=1)
    ]
    agree(f"{family}, W = {window}, {changes}: its own cache, token by token", expected[:, :24],
          torch.cat(steps, dim=1))  # fmt: skip


@pytest.mark.parametrize("window", [3, (3, None)], ids=str)
@torch.no_grad()
def test_greedy_generation_is_theirs(window: Any) -> None:
    """Sixty greedy tokens, far beyond the window, could differ from those of their own cache."""
    model = build(window)
    other = theirs(model)
    prompt = text(11)
    written = [step[0] for step in generate(model, prompt.tolist(), 60, sampling=GREEDY)]
    settings = {"max_new_tokens": 60, "do_sample": False, "eos_token_id": None}
    there = other.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert there[0, 11:].tolist() == written


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_scaling": "linear", "rope_factor": 3.0},
        {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 64},
        {"rope_scaling": "yarn", "rope_factor": 2.5, "rope_original_len": 900},
    ],
    ids=str,
)
@pytest.mark.parametrize("window", [7, None, (3, None)], ids=str)
@torch.no_grad()
def test_rope_scaling_is_theirs(window: Any, scaling: dict[str, Any]) -> None:
    """The ramp could cover the wrong pairs; the magnitude could be applied to queries or keys
    only."""
    model = build(window, head_dim=16, **scaling)
    tokens = text(50)
    plain = build(window, head_dim=16)(tokens)
    assert (model(tokens) - plain).abs().max() > 1e-3
    agree(f"W = {window}, {scaling}", model(tokens), theirs(model)(tokens).logits)


@pytest.mark.parametrize("factor", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("head_dim", [4, 64, 128])
def test_ntk_is_their_dynamic_scaling(head_dim: int, factor: float) -> None:
    """transformers increases the base with the text. For a given length, the base must be ours."""
    settings = transformers.MistralConfig(
        head_dim=head_dim,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e6, "factor": 1.0},
    )
    compute = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["dynamic"]
    speeds, _ = compute(settings, device="cpu", seq_len=int(1024 * factor))
    ours = frequencies(head_dim, Rope(1e6, "ntk", factor))
    agree(f"NTK, head_dim = {head_dim}, factor {factor:g}", ours, speeds.double())


@pytest.mark.parametrize("window", [1, 3, 40, None])
@torch.no_grad()
def test_sink_logits_are_those_of_gpt_oss(window: int | None) -> None:
    """A sink logit is in each softmax once, is not scaled, and has no value, as published."""
    from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss

    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, 20, 8, generator=draw, dtype=torch.float64) for heads in (4, 2, 2)
    )
    logits = torch.randn(4, generator=draw, dtype=torch.float64)
    at = torch.arange(20)
    hidden = (at > at[:, None]) | (at <= at[:, None] - (window or 20))
    mask = torch.zeros(20, 20, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    layer = SimpleNamespace(sinks=logits, num_key_value_groups=2, training=False)
    other, _ = gpt_oss.eager_attention_forward(layer, q, k, v, mask[None, None], scaling=8**-0.5)
    ours = kernels.attend(q, k, v, kernels.Visibility(window), sink_logits=logits)
    agree(f"gpt-oss, W = {window}", ours.transpose(1, 2), other)
