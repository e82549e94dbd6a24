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


def turned(x: torch.Tensor, position: int, rope: Rope) -> torch.Tensor:
    """What the oracle makes of one head x (Dh,)."""
    theirs = reference.Rope(rope.theta, rope.scaling, rope.factor, rope.original_len)
    return reference.rotated(x[None], [position], theirs)[0]


@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_pairs_are_neighbours_and_turn_as_the_papers_say(rope: Rope) -> None:
    """Half-split pairs (Llama in transformers) or another sign would not read Mistral's weights; a
    ramp over the wrong pairs would forget what was trained."""
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 70, 700, 7_000, 70_000]])
    out = rotate(x, rotation(positions, 8, rope, x.dtype))
    for b in range(2):
        for h in range(3):
            for t in range(5):
                expected = turned(x[b, h, t], int(positions[b, t]), rope)
                torch.testing.assert_close(out[b, h, t], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rope", ROPES, ids=str)
@pytest.mark.parametrize("head_dim", [2, 4, 8, 64, 128])
def test_speeds_are_the_oracles(head_dim: int, rope: Rope) -> None:
    """The ramp has other ends in other heads; a head of one pair has no slowest."""
    if head_dim == 2 and rope.scaling == "ntk":
        assert frequencies(2, rope).tolist() == [1.0]  # theta^0, whatever theta
        return
    theirs = reference.Rope(rope.theta, rope.scaling, rope.factor, rope.original_len)
    ours = frequencies(head_dim, rope).tolist()
    assert ours == pytest.approx(reference.speeds(head_dim, theirs), rel=1e-12)


def test_scaling_by_hand() -> None:
    """Linear slows every pair by the factor; NTK the slowest by it and the fastest not at all; YaRN
    keeps the fastest, slows the slowest, and lengthens the vectors."""
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
    """The first pair turns by 1 radian, the second by theta^(-1/2)."""
    x = torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]])
    out = rotate(x, rotation(torch.tensor([1]), 4, PLAIN, x.dtype)).flatten().tolist()
    hand = [math.cos(1), math.sin(1), -math.sin(0.01), math.cos(0.01)]
    assert out == pytest.approx(hand, abs=1e-7)


@pytest.mark.parametrize("rope", [PLAIN, ROPES[4]], ids=str)
@pytest.mark.parametrize("shift", [1, 1000, 10_000_000])
def test_scores_depend_on_distance_only(shift: int, rope: Rope) -> None:
    """The same words further into a text would attend differently."""
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64)
    at = torch.tensor([0, 3, 4, 9, 17, 40])
    scores = []
    for start in (0, shift):
        turn = rotation(at + start, 16, rope, q.dtype)
        scores.append(rotate(q, turn) @ rotate(k, turn).mT)
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("position", [0, 123_457, 9_999_999, 10_000_001])
def test_fp32_is_exact_at_ten_million(position: int) -> None:
    """Angles in fp32 are a whole turn wrong there; a table ends long before."""
    x = torch.randn(16, dtype=torch.float64)
    turn = rotation(torch.tensor([position]), 16, PLAIN, torch.float32)
    out = rotate(x.float()[None, None, None], turn).flatten().double()
    torch.testing.assert_close(out, turned(x, position, PLAIN), rtol=0, atol=1e-6)


def test_bf16_turns_in_fp32() -> None:
    """Rotating in bf16 would lose the phase of long positions: only the result is rounded."""
    x = torch.randn(1, 1, 1, 16).bfloat16()
    turn = rotation(torch.tensor([4_095]), 16, PLAIN, torch.bfloat16)
    expected = turned(x.double().flatten(), 4_095, PLAIN)
    out = rotate(x, turn)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double().flatten(), expected, rtol=2**-8, atol=1e-6)
