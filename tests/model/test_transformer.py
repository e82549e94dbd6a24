"""The whole model equals the oracle, and depends on exactly the tokens in its reach."""

from typing import Any

import pytest
import torch
from small import (
    BACKWARD,
    DTYPES,
    KERNELS,
    Case,
    build,
    cases,
    config,
    oracle,
    sources,
    text,
    using,
)
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer

ONE_SHAPE = ((4, 2),)  # of heads, in tests that are slow or do not depend on heads


def kernels_for(case: Case) -> tuple[str, ...]:
    """Return all kernels. flex, 30 times slower on a CPU, runs with one shape of heads only."""
    return KERNELS if case.heads in ONE_SHAPE else BACKWARD


def every_layer(model: Transformer, tokens: Tensor, documents: Tensor | None) -> list[Tensor]:
    """Return the output of each block and the logits, (B, T, .) each, without the sink token."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out[:, -tokens.shape[1] :]))
        for layer in model.layers
    ]
    with torch.no_grad():
        logits = model(tokens, documents=documents)
    for hook in hooks:
        hook.remove()
    return [*seen, logits]


@pytest.mark.parametrize("case", cases(heads=ONE_SHAPE))
def test_a_token_changes_exactly_what_it_may_reach(case: Case) -> None:
    """A token could change outputs before it, beyond the window or in another document, or fail to
    change those in its reach; in any layer, to the last bit. Row t has another token t."""
    tokens = case.tokens()[0].expand(case.length, -1)
    packed = case.documents()
    documents = None if packed is None else packed[-1].expand(case.length, -1)
    numbers = [1] * case.length if packed is None else packed[-1].tolist()
    changed = (tokens + torch.eye(case.length, dtype=torch.int64)) % config().vocab_size
    model = case.build()
    for kernel in kernels_for(case):
        with using(kernel, model):
            before = every_layer(model, tokens, documents)
            after = every_layer(model, changed, documents)
        for n in range(len(before)):
            reached = sources(model, min(n + 1, 3), numbers).T
            differs = (before[n] != after[n]).any(dim=-1)
            assert torch.equal(differs, reached), f"{kernel}, layer {n}"


@pytest.mark.parametrize("case", cases())
def test_logits_and_gradients_are_the_oracles(case: Case) -> None:
    """Norms, gate, residuals, rotation, heads, windows of the layers, sinks or documents could be
    wrong, in any kernel. Packed documents must equal separate ones."""
    tokens, documents = case.tokens(), case.documents()
    by_row = [None] * len(tokens) if documents is None else documents
    model = case.build().requires_grad_(case.heads in ONE_SHAPE)
    theirs = torch.stack([oracle(model, *row) for row in zip(tokens, by_row, strict=True)])
    upstream = torch.randn(theirs.shape, dtype=torch.float64)
    weights = dict(model.named_parameters())
    backward = BACKWARD if case.heads in ONE_SHAPE else ()  # the other shapes: see test_kernels
    if backward:
        gradients = torch.autograd.grad((theirs * upstream).sum(), list(weights.values()))
    for kernel in kernels_for(case):
        with using(kernel, model.requires_grad_(kernel in backward)):
            ours = model(tokens, documents=documents)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=located(kernel, "logits"))
        if kernel in backward:
            back = torch.autograd.grad((ours * upstream).sum(), list(weights.values()))
            for name, mine, other in zip(weights, back, gradients, strict=True):
                torch.testing.assert_close(
                    mine, other, rtol=1e-9, atol=1e-9, msg=located(kernel, name)
                )


def located(*where: Any) -> Any:
    """Return a function that puts `where` in front of the message of `assert_close`."""
    return lambda message: f"{', '.join(map(str, where))}: {message}"


@pytest.mark.parametrize("case", cases(every=4, heads=ONE_SHAPE))
def test_lower_precision_is_within_its_error(case: Case) -> None:
    """A sum, an angle or a position could have too few bits."""
    tokens, documents = case.tokens()[:1], case.documents()
    documents = None if documents is None else documents[:1]
    with torch.no_grad():
        exact = oracle(case.build(), tokens[0], None if documents is None else documents[0])
        for dtype in DTYPES[1:]:
            model = case.build(dtype=dtype)
            for kernel in kernels_for(case):
                with using(kernel, model):
                    ours = model(tokens, documents=documents)[0]
                error = ((ours.double() - exact).norm() / exact.norm()).item()
                assert ours.dtype == dtype
                assert error < 8 * torch.finfo(dtype).eps, f"{kernel}, {dtype}"  # false for NaN


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 6},
        {"tie_embeddings": True},
        {"rope_theta": 1e6, "norm_eps": 1e-2},
        {"rope_theta_local": 100.0},
        {"rope_theta_local": 100.0, "rope_scaling": "linear", "rope_factor": 3.0},
        {"rope_scaling": "linear", "rope_factor": 2.5},
        {"rope_scaling": "ntk", "rope_factor": 4.0},
        {
            "rope_scaling": "yarn",
            "rope_factor": 4.0,
            "rope_original_len": 256,
            "rope_theta": 500.0,
            "head_dim": 16,
        },
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_other_shapes_and_rotations_are_the_oracles(changes: dict[str, Any], packed: bool) -> None:
    """head_dim could have no effect; a layer could use the rotation of the other kind of layers;
    queries for sinks could have a wrong rotation."""
    case = Case((3, None, 1), 12, 2, True, True, packed)
    model, tokens, documents = case.build(**changes), case.tokens(), case.documents()
    with torch.no_grad():
        ours = model(tokens, documents=documents)
        for row in range(len(tokens)):
            numbers = None if documents is None else documents[row]
            theirs = oracle(model, tokens[row], numbers)
            torch.testing.assert_close(ours[row], theirs, rtol=0, atol=1e-10)


WIDE = {"attention_sinks": 2, "sink_token": True, "sink_logits": True}


@pytest.mark.parametrize("changes", [{}, {"attention_sinks": 2}, WIDE])
def test_a_window_at_least_as_long_as_the_text_is_full_attention(
    kernel: str, changes: dict[str, Any]
) -> None:
    """W >= T must hide no key, and W = T - 1 exactly one. A window without effect hides none."""
    tokens = text(13)
    with torch.no_grad():
        full = build(None, attention=kernel, **changes)(tokens)
        for window in (13, 14, 1000):
            same = build(window, attention=kernel, **changes)(tokens)
            if changes:  # with sinks, the order of the sums may differ
                torch.testing.assert_close(same, full, rtol=0, atol=1e-12)
            else:
                assert torch.equal(same, full)
        without_sinks = build(12, attention=kernel)(tokens)
        full = build(None, attention=kernel)(tokens)
    torch.testing.assert_close(without_sinks[:, :12], full[:, :12], rtol=0, atol=1e-12)
    assert (without_sinks[:, 12] - full[:, 12]).abs().max() > 1e-6


@pytest.mark.parametrize("changes", [{}, {"attention_sinks": 2}, WIDE])
def test_every_window_acts(kernel: str, changes: dict[str, Any]) -> None:
    """A window could have no effect, or one in a single layer only. Logits with W and with W + 1
    must differ from the first token on that sees another key."""
    tokens = text(13)
    model = build(None, attention=kernel, **changes)

    def logits(windows: int | list[int]) -> Tensor:
        model.set_windows(windows)
        with torch.no_grad():
            return model(tokens)[0]

    sinks = changes.get("attention_sinks", 0)
    for window in (1, 2, 5, 11 - sinks):
        narrow, wide = logits(window), logits(window + 1)
        # Query W + n is the first for which a key that is not a sink has left the window.
        differs = (narrow - wide).abs().amax(dim=-1) > 1e-6
        assert differs.nonzero()[0].item() == window + sinks
        for layer in range(3):
            other = logits([window + (n == layer) for n in range(3)])
            assert (other - narrow).abs().max() > 1e-6, f"layer {layer}"


def test_the_first_token_gets_through_full_layers_only(kernel: str) -> None:
    """The windows of [W, None] could be swapped, or the first one used in every layer."""
    model = build([3, None], n_layers=2, attention=kernel)
    tokens = text(10)
    other = tokens.clone()
    other[0, 0] = (other[0, 0] + 1) % model.config.vocab_size
    pairs = zip(every_layer(model, tokens, None), every_layer(model, other, None), strict=True)
    window_layer, full_layer, logits = (
        [t for t in range(10) if not torch.equal(a[0, t], b[0, t])] for a, b in pairs
    )
    assert window_layer == [0, 1, 2]
    assert full_layer == logits == list(range(10))


@pytest.mark.parametrize("case", cases(heads=ONE_SHAPE))
def test_the_gradient_ends_at_the_reach(case: Case) -> None:
    """Outside the reach the gradient must be exactly zero, inside it must not be zero. Row t has
    the gradient of output t."""
    tokens = case.tokens()[0].expand(case.length, -1)
    packed = case.documents()
    documents = None if packed is None else packed[-1].expand(case.length, -1)
    numbers = [1] * case.length if packed is None else packed[-1].tolist()
    model = case.build()
    embedded: list[Tensor] = []

    def cut(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
        embedded[:] = [out.detach().requires_grad_()]
        return embedded[0]

    model.tok_embeddings.register_forward_hook(cut)
    row = torch.arange(case.length)
    for kernel in BACKWARD:
        with using(kernel, model):
            logits = model(tokens, documents=documents)
        (gradient,) = torch.autograd.grad(logits[row, row].square().sum(), embedded)
        reached = gradient.ne(0).any(dim=-1)
        assert torch.equal(reached, sources(model, 3, numbers)), kernel


def test_set_windows_is_a_model_built_with_them() -> None:
    """A schedule of windows could change the config and not the layers, or some layers only, or not
    update sinks and rotations."""
    tokens = text(15)
    changes = WIDE | {"rope_theta_local": 100.0}
    model = build(3, **changes)
    for stack in (5, None, [2, None], (1, 3, None), 3):
        model.set_windows(stack)
        fresh = build(stack, **changes)
        assert model.config == fresh.config
        with torch.no_grad():
            assert torch.equal(model(tokens), fresh(tokens)), f"{stack}"


def test_parameter_names_are_mistrals() -> None:
    """Other names would not load Mistral's weights, and other tools would not load ours."""
    layer = ["attention.wq", "attention.wk", "attention.wv", "attention.wo"]
    layer += ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"]
    names = ["tok_embeddings.weight", "norm.weight", "output.weight"]
    names += [f"layers.{n}.{part}.weight" for n in range(3) for part in layer]
    assert sorted(build().state_dict()) == sorted(names)
    names += ["sink_token", *[f"layers.{n}.attention.sink_logits" for n in range(3)]]
    assert sorted(build(**WIDE).state_dict()) == sorted(names)


def test_windows_have_no_parameters() -> None:
    """The same weights must load under any window and any number of sinks."""
    keys = build([5, None], attention_sinks=4).load_state_dict(build(3).state_dict(), strict=False)
    assert not keys.missing_keys and not keys.unexpected_keys


def test_tied_embeddings_are_one_tensor() -> None:
    """Two tensors would become different in training."""
    model = Transformer(config(tie_embeddings=True))
    assert model.output.weight is model.tok_embeddings.weight


def test_each_block_starts_as_the_identity() -> None:
    """The first steps at a high learning rate would be unstable."""
    torch.manual_seed(0)
    model = Transformer(config(**WIDE))
    tokens = text(9)
    expected = model.output(model.norm(model.tok_embeddings(tokens)))
    assert torch.equal(model(tokens), expected)


def test_compiled_blocks_take_texts_of_any_length() -> None:
    """torch.compile makes lengths symbolic from the second one on, and then cannot format them."""
    config = ModelConfig(
        vocab_size=11, dim=16, n_layers=2, n_heads=2, n_kv_heads=1, sliding_window=4
    )
    torch.manual_seed(0)
    model = Transformer(config)
    tokens = torch.randint(11, (2, 64))
    lengths = (32, 48, 64)
    expected = [model(tokens[:, :length]) for length in lengths]
    model.compile_blocks(backend="eager")
    for length, logits in zip(lengths, expected, strict=True):
        torch.testing.assert_close(model(tokens[:, :length]), logits)
