"""Which optimizer updates which weight, and what a checkpoint restores."""

import pytest
import torch

from model import ModelConfig, Transformer
from training.muon import Muon
from training.optimizer import Optimizer

SHAPE = ModelConfig(vocab_size=32, dim=16, n_layers=2, n_heads=2, n_kv_heads=1, sliding_window=4)


def build(name: str, **settings: float) -> tuple[Transformer, Optimizer]:
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    options = {"lr": 0.02, "adamw_lr": 0.003, "weight_decay": 0.1} | settings
    return model, Optimizer(model.named_parameters(), name=name, **options)  # type: ignore[arg-type]


def gradients(model: Transformer, seed: int) -> None:
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)


def test_muon_gets_the_matrices_of_the_layers_and_nothing_else() -> None:
    """Muon on an embedding, or AdamW on the matrices of the layers, would train more slowly."""
    model, optimizer = build("muon")
    gradients(model, 1)
    optimizer.step(1.0)
    kinds: dict[str, set[str]] = {}
    for name in optimizer.moments():
        weight, _, moment = name.rpartition(".")
        kinds.setdefault(weight, set()).add(moment)
    assert kinds.keys() == dict(model.named_parameters()).keys()
    matrices = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
    for name, moments in kinds.items():
        of_muon = name.startswith("layers.") and name.split(".")[-2] in matrices
        assert moments == ({"momentum_buffer"} if of_muon else {"exp_avg", "exp_avg_sq"}), name


def test_adamw_gets_everything() -> None:
    """With optimizer: adamw, no weight may be updated by Muon."""
    model, optimizer = build("adamw")
    gradients(model, 1)
    optimizer.step(1.0)
    names = {f"{n}.{m}" for n, _ in model.named_parameters() for m in ("exp_avg", "exp_avg_sq")}
    assert optimizer.moments().keys() == names


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_norms_do_not_decay_and_matrices_do(name: str) -> None:
    """Without a gradient only the decay is left: a weight shrinks by lr * decay (AdamW, equation 12
    of arXiv 1711.05101), a norm's gain stays 1."""
    model, optimizer = build(name, weight_decay=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step(0.5)
    for n, weight in model.named_parameters():
        if weight.dim() == 1:
            factor = 1.0
        elif name == "muon" and not n.startswith("layers."):
            factor = 1 - 0.5 * 0.003 * 0.5
        else:
            factor = 1 - 0.5 * 0.02 * 0.5
        torch.testing.assert_close(weight.detach(), before[n] * factor)


def test_adamw_follows_the_paper() -> None:
    """Three updates of a norm's gain written out: arXiv 1711.05101, algorithm 2, no decay."""
    model, optimizer = build("adamw", lr=0.01)
    gain = model.norm.weight
    value, m, v = gain.detach().clone().double(), 0.0, 0.0
    for step, ratio in enumerate((0.5, 1.0, 0.25), 1):
        gradients(model, step)
        g = gain.grad.double()  # type: ignore[union-attr]
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        hat_m, hat_v = m / (1 - 0.9**step), v / (1 - 0.95**step)
        value = value - 0.01 * ratio * hat_m / (hat_v.sqrt() + 1e-8)
        optimizer.step(ratio)
    torch.testing.assert_close(gain.detach().double(), value, rtol=1e-6, atol=1e-7)


def test_muon_orthogonalises() -> None:
    """All singular values of a first update are near 0.2 * sqrt(larger side) * lr, the scale of
    AdamW (arXiv 2502.16982, equation 4). Newton-Schulz reaches 0.7 to 1.2 of it."""
    model, optimizer = build("muon", weight_decay=0.0)
    weight = model.layers[0].feed_forward.w1.weight
    before = weight.detach().clone()
    gradients(model, 1)
    optimizer.step(1.0)
    values = torch.linalg.svdvals((before - weight.detach()).double())
    unit = 0.02 * 0.2 * max(weight.shape) ** 0.5
    assert 0.6 * unit < values.min() and values.max() < 1.3 * unit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_is_torchs_up_to_rounding(dtype: torch.dtype) -> None:
    """Shapes could be stacked in the wrong order, Nesterov's momentum be missing or the scale
    differ. torch always multiplies in bf16: 8 bits, in five iterations that amplify the error."""
    shapes = [(16, 16), (8, 16), (16, 16), (40, 16), (16, 40), (8, 16)]
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    settings = {"lr": 0.05, "weight_decay": 0.2, "momentum": 0.95}
    mine = Muon(ours, dtype=dtype, **settings)
    other = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    before = [weight.detach().clone() for weight in ours]
    for _ in range(4):
        for weight, twin in zip(ours, theirs, strict=True):
            weight.grad = torch.randn_like(weight)
            twin.grad = weight.grad.clone()
        mine.step()
        other.step()
    for weight, twin, start in zip(ours, theirs, before, strict=True):
        change = (twin - start).norm()
        assert (weight - twin).norm() < 0.03 * change


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_restored_optimizer_continues_bit_for_bit(name: str) -> None:
    """A moment, or AdamW's count of steps, could be lost: the next update would differ."""
    model, optimizer = build(name)
    for step in range(3):
        gradients(model, step)
        optimizer.step(1.0)
    other, restored = build(name)
    other.load_state_dict(model.state_dict())
    restored.start_at(3)
    for moment, values in restored.moments().items():
        values.copy_(optimizer.moments()[moment])
    for step in range(3, 5):
        for m, o in ((model, optimizer), (other, restored)):
            gradients(m, step)
            o.step(0.7)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(t, restored.moments()[n]) for n, t in optimizer.moments().items())


def test_there_are_no_gradients_after_a_step() -> None:
    """Gradients that are kept would be added to those of the next step."""
    model, optimizer = build("muon")
    gradients(model, 0)
    optimizer.step(1.0)
    assert all(weight.grad is None for weight in model.parameters())
    assert build("muon")[1].moments() == {}


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.8}, {"momentum": 0.0}])
def test_muon_averages_gradients_with_its_momentum(settings: dict[str, float]) -> None:
    """The size of Muon's update hides another momentum. For two gradients, by the docstring's rule,
    with m = 0.95 unless it is given: B = m * ((1 - m) * G1) + (1 - m) * G2."""
    model, optimizer = build("muon", **settings)
    weight, drawn = model.layers[0].feed_forward.w1.weight, []
    for seed in (1, 2):
        gradients(model, seed)
        assert weight.grad is not None
        drawn.append(weight.grad.clone())
        optimizer.step(1.0)
    buffer = optimizer.moments()["layers.0.feed_forward.w1.weight.momentum_buffer"]
    m = settings.get("momentum", 0.95)
    torch.testing.assert_close(buffer, m * (1 - m) * drawn[0] + (1 - m) * drawn[1])
