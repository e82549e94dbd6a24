"""LoRA against the formula of the paper (arXiv 2106.09685, equation 3), in double precision."""

from collections.abc import Callable
from typing import Any

import pytest
import small
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import native
from model.adapters import add_adapters, merged
from model.cache import RollingKVCache
from model.config import LINEARS, LoraConfig
from model.cost import training_flops, training_memory
from model.decoding import Decoder
from model.generation import generate
from model.layers import JOIN_FROM, project
from model.lora import LoraLinear
from model.transformer import Transformer
from training.optimizer import Optimizer

ALL = tuple(LINEARS)
TARGETS = (ALL, ("wq", "wv"), ("wk",), ("w1",), ("w2", "wo"))


def build(targets: tuple[str, ...] = ALL, rank: int = 3, **changes: Any) -> Transformer:
    """Build a small model with adapters, none of whose matrices is zero."""
    model = small.build(3, **changes)
    add_adapters(model, LoraConfig(rank, alpha=6.0, targets=targets))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                weight.copy_(small.drawn(name, weight.shape, 0) * weight.shape[1] ** -0.5)
    return model


def dense(model: Transformer) -> dict[str, Tensor]:
    """Return W + alpha / r B A of each matrix, with alpha / r = 6 / 3, and all other weights."""
    weights = dict(model.named_parameters())
    return {
        name: weight
        + (2 * weights[f"{name[:-7]}.lora_B"] @ weights[f"{name[:-7]}.lora_A"]
           if f"{name[:-7]}.lora_A" in weights else 0)
        for name, weight in weights.items()
        if ".lora_" not in name
    }  # fmt: skip


def loss_of(model: nn.Module, weights: dict[str, Tensor] | None = None) -> Tensor:
    """Return a loss over two rows, long enough that weights are joined."""
    tokens = small.text(JOIN_FROM, rows=2)
    if weights is None:
        logits = model(tokens[:, :-1])
    else:
        logits = torch.func.functional_call(model, weights, (tokens[:, :-1],))
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("targets", TARGETS, ids="-".join)
def test_loss_and_gradients_are_those_of_the_dense_formula(targets: tuple[str, ...]) -> None:
    """A scale, a transposed factor, or a block of B that is added to another layer's outputs."""
    model = build(targets)
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = loss_of(model)
    found = torch.autograd.grad(loss, list(adapters.values()))
    expected_loss = loss_of(small.build(3), dense(model))
    expected = torch.autograd.grad(expected_loss, list(adapters.values()))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    for name, a, b in zip(adapters, found, expected, strict=True):
        assert b.abs().max() > 1e-6, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("length", [1, JOIN_FROM - 1, JOIN_FROM, 3 * JOIN_FROM])
def test_a_layer_without_an_adapter_stays_beside_one_with(length: int) -> None:
    """In the joined product, or with few tokens in separate ones."""
    model = build(("wq", "wv"))
    attention: Any = model.layers[0].attention
    linears = attention.wq, attention.wk, attention.wv
    x = small.drawn("x", torch.Size((1, length, 16)), 0)
    names = (f"layers.0.attention.{name}.weight" for name in ("wq", "wk", "wv"))
    expected = torch.cat([x @ dense(model)[name].T for name in names], dim=-1)
    torch.testing.assert_close(project(x, *linears), expected, rtol=1e-12, atol=1e-12)


def test_a_layer_that_nothing_adapts_is_computed_as_before() -> None:
    """Plain models, whose runs must keep every bit."""
    x = torch.randn(2, JOIN_FROM, 16)
    linears = nn.Linear(16, 8, bias=False), nn.Linear(16, 24, bias=False)
    expected = F.linear(x, torch.cat([linear.weight for linear in linears]))
    assert torch.equal(project(x, *linears), expected)
    plain = small.build(3)
    assert merged(plain) is plain


def test_training_starts_from_the_function_of_the_weights() -> None:
    """B that is not zero would change the model before it is trained; an A of zero would never
    train. A keeps the size of its input."""
    torch.manual_seed(0)
    model = small.build(3, dim=64)
    before = loss_of(model)
    add_adapters(model, LoraConfig(rank=32, alpha=64.0, targets=ALL))
    assert torch.equal(loss_of(model), before)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            assert not module.lora_B.any()
            size = module.lora_A.std() * module.in_features**0.5
            assert size.item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("targets", TARGETS, ids="-".join)
def test_only_adapters_have_gradients_and_moments(targets: tuple[str, ...]) -> None:
    """A frozen weight that changes by a bit, or memory for gradients that nobody uses."""
    model = build(targets).float()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    options = {"lr": 0.1, "adamw_lr": 0.1, "weight_decay": 0.5}
    optimizer = Optimizer(model.named_parameters(), name="adamw", **options)  # type: ignore[arg-type]
    loss_of(model).backward()
    shapes = LoraConfig(3, 6.0, targets).shapes(model.config)
    assert {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad} == shapes
    assert {name for name, p in model.named_parameters() if p.grad is not None} == shapes.keys()
    optimizer.step(1.0)
    moments = optimizer.moments()
    assert moments.keys() == {f"{n}.{m}" for n in shapes for m in ("exp_avg", "exp_avg_sq")}
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == (name not in shapes), name
    memory = training_memory(model.config, 1, 8, "adamw", 4, LoraConfig(3, 6.0, targets))
    assert memory.weights == sum(4 * p.numel() for p in model.parameters())
    assert memory.gradients == sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    assert memory.moments == sum(4 * moment.numel() for moment in moments.values())


def saved_bytes(model: Transformer) -> int:
    """Count the bytes that autograd keeps for the backward pass, without those of parameters."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = small.text(512)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(tokens[:, :-1], targets=tokens[:, 1:])
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("targets", [(), *TARGETS], ids=lambda t: "-".join(t) or "full")
def test_the_estimate_of_activations_is_low(targets: tuple[str, ...]) -> None:
    """A run that fits would be refused. () is a model without adapters."""
    model = build(targets).float() if targets else small.build(3).float()
    lora = LoraConfig(3, 6.0, targets) if targets else None
    estimate = training_memory(model.config, 1, 511, "adamw", 4, lora).activations
    assert 0 < estimate < saved_bytes(model)


def test_flops_leave_out_the_gradients_of_frozen_weights() -> None:
    """An MFU that counts work which is not done. By hand: forward and input gradients of all
    matrices, all three products of adapters and of attention."""
    shape, targets = small.config(None), ("wq", "w2")
    layer = 16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 16 * 24
    matrices, adapters = 3 * layer + small.VOCAB * 16, 3 * 5 * (16 + 16 + 24 + 16)
    length, pairs = 8, 8 * 9 // 2
    attention = 3 * 4 * (2 * 4 + 2 * 4) * pairs  # layers, heads, q . k and weight * v
    expected = length * 2 * (2 * matrices + 3 * adapters) + 3 * attention
    assert training_flops(shape, length, LoraConfig(5, 16.0, targets)) == expected


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True, "sink_token": True}], ids=str)
def test_merged_equals_unmerged(changes: dict[str, Any]) -> None:
    """The model that is saved, sampled and exported would differ from the one that was trained."""
    model = build(**changes)
    plain = merged(model)
    assert not any(isinstance(module, LoraLinear) for module in plain.modules())
    tokens = small.text(JOIN_FROM)
    torch.testing.assert_close(plain(tokens), model(tokens), rtol=1e-11, atol=1e-11)
    for name, weight in dense(model).items():
        torch.testing.assert_close(dict(plain.named_parameters())[name], weight)
    assert model.layers[0].attention.wq.lora_A.requires_grad  # type: ignore[union-attr]


DECODERS: dict[str, Callable[[Transformer, RollingKVCache], Decoder]] = {
    "pytorch": lambda model, cache: Decoder(model, cache, native=False),
    "native": lambda model, cache: Decoder(model, cache),
    "int8": lambda model, cache: Decoder(model, cache, weights="int8"),
}


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_every_decoder_sees_the_adapters(kind: str) -> None:
    """A sample in training, taken from the weights that are not trained."""
    model = build().float()
    tokens = small.text(9)
    logits = DECODERS[kind](model, RollingKVCache(model.config, 1)).prefill(tokens.tolist())
    expected, without = model(tokens)[:, -1], small.build(3).float()(tokens)[:, -1]
    difference = (logits - expected).abs().max()
    assert difference < (0.15 if kind == "int8" else 1e-4)
    assert (logits - without).abs().max() > 5 * difference


def test_generation_equals_the_tokens_of_whole_texts() -> None:
    """A cache that is filled by one model and read by another."""
    model = build()
    text = small.text(5)[0].tolist()
    written = [row[0] for row in generate(model, [text], 12, sampling=None, seed=0, look_up=False)]
    again = [row[0] for row in generate(merged(model), [text], 12, seed=0, look_up=False)]
    assert written == again


def test_bf16_and_native_kernels_agree_with_fp32() -> None:
    """Training on a CPU with bf16: a product in another dtype than its neighbours, or a kernel that
    needs gradients of what is frozen."""
    model = build(dim=32, hidden_dim=64, head_dim=16, dtype=torch.float32)
    tokens, losses, gradients = small.text(2 * JOIN_FROM), [], []
    for bf16 in (False, True):
        model.zero_grad()
        with (
            native.enabled(bf16 and native.training_refusal() is None),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            losses.append(model(tokens[:, :-1], targets=tokens[:, 1:]))
        losses[-1].backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.01, atol=0)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.slow
def test_compiled_blocks_train_adapters() -> None:
    """On CUDA, where blocks are compiled: adapters that break the graph, or are not in it."""
    model, compiled = build(), build()
    compiled.compile_blocks(backend="aot_eager")
    losses = loss_of(model), loss_of(compiled)
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, a), (_, b) in zip(
        model.named_parameters(), compiled.named_parameters(), strict=True
    ):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad)
