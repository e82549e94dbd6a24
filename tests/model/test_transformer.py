"""The whole model: equal to the oracle, and influenced by exactly what its windows let through."""

from typing import Any

import pytest
import reference
import torch
from small import STACKS, build, config, oracle, text
from torch import Tensor

from model.transformer import Transformer


def every_layer(model: Transformer, tokens: Tensor) -> list[Tensor]:
    """What each block gives out, and at last the logits: (T, .) each."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
        for layer in model.layers
    ]
    with torch.no_grad():
        logits = model(tokens[None])[0]
    for hook in hooks:
        hook.remove()
    return [*seen, logits]


def changed(before: Tensor, after: Tensor) -> list[int]:
    """Positions whose bits differ."""
    return [t for t in range(len(before)) if not torch.equal(before[t], after[t])]


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("window", "length"), STACKS)
def test_a_token_changes_exactly_what_it_may_reach(
    kernel: str, window: Any, length: int, sinks: int
) -> None:
    """A leak into the future or past the window, or a window that is wider than it acts; in any
    layer, to the last bit."""
    model = build(window, attention=kernel, attention_sinks=sinks)
    tokens = text(length)[0]
    before = every_layer(model, tokens)
    windows = model.config.windows
    sources = [reference.depends(windows[: n + 1], sinks, length) for n in range(len(windows))]
    sources.append(sources[-1])
    for token in range(0, length, 1 if length < 20 else 3):
        other = tokens.clone()
        other[token] = (other[token] + 1) % model.config.vocab_size
        for n, after in enumerate(every_layer(model, other)):
            expected = [i for i in range(length) if token in sources[n][i]]
            assert changed(before[n], after) == expected, f"token {token}, layer {n}"


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("window", "length"), STACKS)
def test_logits_and_gradients_are_the_oracles(window: Any, length: int, sinks: int) -> None:
    """Anything at all: norms, gate, residuals, rotation, heads, windows of the layers."""
    model = build(window, attention_sinks=sinks)
    tokens = text(length)[0]
    weigh = torch.randn(length, model.config.vocab_size, dtype=torch.float64)
    ours, theirs = model(tokens[None])[0], oracle(model, tokens)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    weights = dict(model.named_parameters())
    gradients = [
        torch.autograd.grad((logits * weigh).sum(), list(weights.values()))
        for logits in (ours, theirs)
    ]
    for name, mine, other in zip(weights, *gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 1},
        {"n_kv_heads": 4},
        {"head_dim": 6},
        {"tie_embeddings": True},
        {"rope_theta": 1e6, "norm_eps": 1e-2},
    ],
)
def test_other_shapes_are_the_oracles(changes: dict[str, Any]) -> None:
    """Grouped heads could pair with the wrong key head; a set head_dim could be ignored."""
    model = build(3, **changes)
    tokens = text(9)[0]
    torch.testing.assert_close(model(tokens[None])[0], oracle(model, tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_within_its_error(kernel: str, dtype: torch.dtype) -> None:
    """A sum or an angle in too few bits."""
    model = build(3, attention=kernel, dtype=dtype)
    tokens = text(18)[0]
    with torch.no_grad():
        ours, exact = model(tokens[None])[0].double(), oracle(model, tokens)
    error = ((ours - exact).norm() / exact.norm()).item()
    assert ours.isfinite().all() and error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("sinks", [0, 2])
def test_a_window_at_least_as_long_as_the_text_is_full_attention(kernel: str, sinks: int) -> None:
    """W >= T must hide nothing, and W = T - 1 exactly one key: a dead knob hides none."""
    tokens = text(13)
    with torch.no_grad():
        full = build(None, attention=kernel, attention_sinks=sinks)(tokens)
        for window in (13, 14, 1000):
            assert torch.equal(build(window, attention=kernel, attention_sinks=sinks)(tokens), full)
        narrow = build(12, attention=kernel)(tokens)
    torch.testing.assert_close(narrow[:, :12], full[:, :12], rtol=0, atol=1e-12)
    assert (narrow[:, 12] - full[:, 12]).abs().max() > 1e-6


def test_the_first_token_gets_through_full_layers_only(kernel: str) -> None:
    """The windows of [W, None] could be swapped, or the first one used in every layer."""
    model = build([3, None], n_layers=2, attention=kernel)
    tokens = text(10)[0]
    other = tokens.clone()
    other[0] = (other[0] + 1) % model.config.vocab_size
    pairs = zip(every_layer(model, tokens), every_layer(model, other), strict=True)
    window_layer, full_layer, logits = (changed(a, b) for a, b in pairs)
    assert window_layer == [0, 1, 2]
    assert full_layer == logits == list(range(10))


@pytest.mark.parametrize(("window", "length"), STACKS)
def test_the_gradient_ends_at_the_reach(kernel: str, window: Any, length: int) -> None:
    """Beyond the reach it is zero, not small; at the edge it is not zero."""
    model = build(window, attention=kernel)
    tokens = text(length)[0]
    sources = reference.depends(model.config.windows, 0, length)
    for i in {0, length // 2, length - 1}:
        model.zero_grad()
        model(tokens[None])[0, i].square().sum().backward()
        gradient = model.tok_embeddings.weight.grad[tokens]  # the tokens of a text all differ
        reached = {t for t in range(length) if gradient[t].any()}
        assert reached == sources[i]


def test_parameter_names_are_mistrals() -> None:
    """Mistral's weights would not load, nor ours into another tool."""
    layer = ["attention.wq", "attention.wk", "attention.wv", "attention.wo"]
    layer += ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"]
    names = ["tok_embeddings.weight", "norm.weight", "output.weight"]
    names += [f"layers.{n}.{part}.weight" for n in range(3) for part in layer]
    assert sorted(build().state_dict()) == sorted(names)


def test_windows_have_no_parameters() -> None:
    """The same weights must load under any window and any number of sinks."""
    keys = build([5, None], attention_sinks=4).load_state_dict(build(3).state_dict(), strict=False)
    assert not keys.missing_keys and not keys.unexpected_keys


def test_tied_embeddings_are_one_tensor() -> None:
    """A copy would drift away in training."""
    model = Transformer(config(tie_embeddings=True))
    assert model.output.weight is model.tok_embeddings.weight


def test_each_block_starts_as_the_identity() -> None:
    """The first steps at a high learning rate would be unstable."""
    torch.manual_seed(0)
    model = Transformer(config())
    tokens = text(9)
    expected = model.output(model.norm(model.tok_embeddings(tokens)))
    assert torch.equal(model(tokens), expected)
