"""Rotary positions: layout, relativity, and no last position."""

import math

import pytest
import reference
import torch

from model.rope import Rope, rotate, rotation

THETA = 10_000.0


@pytest.mark.parametrize("theta", [THETA, 1e6])
def test_pairs_are_neighbours_and_turn_as_the_paper_says(theta: float) -> None:
    """Half-split pairs (Llama in transformers) or another sign would not read Mistral's weights."""
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 70, 700, 7_000, 70_000]])
    out = rotate(x, rotation(positions, 8, Rope(theta), x.dtype))
    for b in range(2):
        for h in range(3):
            expected = reference.turned(x[b, h], positions[b].tolist(), reference.Rope(theta))
            torch.testing.assert_close(out[b, h], expected, rtol=0, atol=1e-10)


def test_position_one_by_hand() -> None:
    """The first pair turns by 1 radian, the second by theta^(-1/2)."""
    x = torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]])
    out = rotate(x, rotation(torch.tensor([1]), 4, Rope(THETA), x.dtype)).flatten().tolist()
    hand = [math.cos(1), math.sin(1), -math.sin(0.01), math.cos(0.01)]
    assert out == pytest.approx(hand, abs=1e-7)


@pytest.mark.parametrize("shift", [1, 1000, 10_000_000])
def test_scores_depend_on_distance_only(shift: int) -> None:
    """The same words further into a text would attend differently."""
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64)
    at = torch.tensor([0, 3, 4, 9, 17, 40])
    scores = []
    for start in (0, shift):
        turn = rotation(at + start, 16, Rope(THETA), q.dtype)
        scores.append(rotate(q, turn) @ rotate(k, turn).mT)
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("position", [0, 123_457, 9_999_999, 10_000_001])
def test_fp32_is_exact_at_ten_million(position: int) -> None:
    """Angles in fp32 are a whole turn wrong there; a table ends long before."""
    x = torch.randn(16, dtype=torch.float64)
    turn = rotation(torch.tensor([position]), 16, Rope(THETA), torch.float32)
    out = rotate(x.float()[None, None, None], turn)[0, 0].double()
    expected = reference.turned(x[None], [position], reference.Rope(THETA))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


def test_bf16_turns_in_fp32() -> None:
    """Rotating in bf16 would lose the phase of long positions: only the result is rounded."""
    x = torch.randn(1, 1, 1, 16).bfloat16()
    turn = rotation(torch.tensor([4_095]), 16, Rope(THETA), torch.bfloat16)
    expected = reference.turned(x.double()[0, 0], [4_095], reference.Rope(THETA))
    out = rotate(x, turn)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double()[0, 0], expected, rtol=2**-8, atol=1e-6)
