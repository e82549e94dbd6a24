"""Rotary positions: layout, relativity, scaling, and no last position."""

import math

import pytest
import reference
import torch

from model.rope import Rope, frequencies, rotate, rotation

THETA = 10_000.0
PLAIN = Rope(THETA)
ROPES = [
    PLAIN,
    Rope(1e6),
    Rope(THETA, "linear", 4.0),
    Rope(THETA, "ntk", 4.0),
    Rope(THETA, "yarn", 4.0, 64),
    Rope(500.0, "yarn", 2.5, 900),
    Rope(1e6, "yarn", 16.0, 32_768),
]


def rotated(x: torch.Tensor, position: int, rope: Rope) -> torch.Tensor:
    """Rotate one head x (Dh,) with the oracle."""
    theirs = reference.Rope(rope.theta, rope.scaling, rope.factor, rope.original_len)
    return reference.rotated(x[None], [position], theirs)[0]


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_pairs_are_neighbours_and_rotate_as_published(rope: Rope) -> None:
    """Half-split pairs (Llama in transformers) or another sign do not fit Mistral's weights. A ramp
    over the wrong pairs changes frequencies that must not change."""
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 70, 700, 7_000, 70_000]])
    out = rotate(x, rotation(positions, 8, rope, x.dtype))
    for b in range(2):
        for h in range(3):
            for t in range(5):
                expected = rotated(x[b, h, t], int(positions[b, t]), rope)
                torch.testing.assert_close(out[b, h, t], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rope", ROPES, ids=str)
@pytest.mark.parametrize("head_dim", [2, 4, 8, 64, 128])
def test_speeds_are_the_oracles(head_dim: int, rope: Rope) -> None:
    """The ends of the ramp depend on the head's size; a head of one pair has no slowest pair."""
    if head_dim == 2 and rope.scaling == "ntk":
        assert frequencies(2, rope).tolist() == [1.0]  # theta^0, whatever theta
        return
    theirs = reference.Rope(rope.theta, rope.scaling, rope.factor, rope.original_len)
    ours = frequencies(head_dim, rope).tolist()
    assert ours == pytest.approx(reference.speeds(head_dim, theirs), rel=1e-12)


def test_scaling_by_hand() -> None:
    """Linear divides every frequency by the factor, NTK the slowest only; YaRN keeps the fastest,
    divides the slowest, and makes vectors longer."""
    plain = frequencies(16, PLAIN)
    assert torch.allclose(frequencies(16, Rope(THETA, "linear", 4.0)) * 4, plain)
    ntk = frequencies(16, Rope(THETA, "ntk", 4.0))
    yarn = Rope(THETA, "yarn", 4.0, 4_096)
    for scaled in (ntk, frequencies(16, yarn)):
        assert scaled[0] == plain[0] and scaled[-1].item() == pytest.approx(plain[-1].item() / 4)
    x = torch.tensor([[[[3.0, 4.0] * 8]]], dtype=torch.float64)
    out = rotate(x, rotation(torch.tensor([17]), 16, yarn, x.dtype))
    assert out.norm().item() == pytest.approx(x.norm().item() * (0.1 * math.log(4) + 1))


def test_position_one_by_hand() -> None:
    """At position 1 the first pair rotates by 1 radian, the second by theta^(-1/2)."""
    x = torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]])
    out = rotate(x, rotation(torch.tensor([1]), 4, PLAIN, x.dtype)).flatten().tolist()
    hand = [math.cos(1), math.sin(1), -math.sin(0.01), math.cos(0.01)]
    assert out == pytest.approx(hand, abs=1e-7)


@pytest.mark.parametrize("rope", [PLAIN, ROPES[4]], ids=str)
@pytest.mark.parametrize("shift", [1, 1000, 10_000_000])
def test_scores_depend_on_distance_only(shift: int, rope: Rope) -> None:
    """Attention could change if the same tokens come later in a text."""
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64)
    at = torch.tensor([0, 3, 4, 9, 17, 40])
    scores = []
    for start in (0, shift):
        factors = rotation(at + start, 16, rope, q.dtype)
        scores.append(rotate(q, factors) @ rotate(k, factors).mT)
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("position", [0, 123_457, 9_999_999, 10_000_001])
def test_fp32_is_exact_at_ten_million(position: int) -> None:
    """At such positions, angles in fp32 are wrong by a whole rotation, and a table has ended."""
    x = torch.randn(16, dtype=torch.float64)
    factors = rotation(torch.tensor([position]), 16, PLAIN, torch.float32)
    out = rotate(x.float()[None, None, None], factors).flatten().double()
    torch.testing.assert_close(out, rotated(x, position, PLAIN), rtol=0, atol=1e-6)


def test_bf16_rotates_in_fp32() -> None:
    """A rotation in bf16 loses the angle of large positions: only the result may be rounded."""
    x = torch.randn(1, 1, 1, 16).bfloat16()
    factors = rotation(torch.tensor([4_095]), 16, PLAIN, torch.bfloat16)
    expected = rotated(x.double().flatten(), 4_095, PLAIN)
    out = rotate(x, factors)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double().flatten(), expected, rtol=2**-8, atol=1e-6)
