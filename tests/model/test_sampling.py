"""From logits to a token, each filter against numbers worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from errors import UserError
from model.sampling import Sampling, draw, probabilities

INF = math.inf
P = [0.1, 0.4, 0.2, 0.3]  # not in order, so that a filter that forgets to unsort is seen


def filtered(p: list[float] = P, **settings: Any) -> list[float]:
    return probabilities(torch.tensor([p]).log(), Sampling(**settings))[0].tolist()


@pytest.mark.parametrize(
    ("settings", "hand"),
    [
        ({}, P),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),  # squares: .01 .16 .04 .09
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 1e-6}, [0, 1, 0, 0]),
        ({"temperature": 5e-324}, [0, 1, 0, 0]),
        ({"temperature": 1e6}, [0.25] * 4),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 4}, P),
        ({"top_k": 99}, P),  # more than there are
        ({"top_p": 0.3}, [0, 1, 0, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 0.95}, P),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),
        ({"top_p": 5e-324}, [0, 1, 0, 0]),
        ({"min_p": 0.3}, [0, 4 / 9, 2 / 9, 3 / 9]),  # at least 0.12
        ({"min_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),  # at least 0.28
        ({"min_p": 0.99}, [0, 1, 0, 0]),
        # In order: of 4/7 and 3/7, which top_k leaves, the first alone reaches 0.55.
        ({"top_k": 2, "top_p": 0.55}, [0, 1, 0, 0]),
        # Temperature comes before top_p: of 16/30, ... the first alone reaches 0.5.
        ({"temperature": 0.5, "top_p": 0.5}, [0, 1, 0, 0]),
        # min_p comes last and is a share of the most likely: 0.6 * 4/9 = 0.27.
        ({"top_k": 3, "min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_filters_by_hand(settings: dict[str, Any], hand: list[float]) -> None:
    """A filter that keeps one too many, does not renormalise, or comes in another order."""
    assert filtered(**settings) == pytest.approx(hand, abs=1e-6)


def test_rows_are_filtered_apart() -> None:
    """The best of one row must not decide about another."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    both = probabilities(p.log(), Sampling(top_k=2, min_p=0.4))
    assert both.tolist() == [pytest.approx([1, 0, 0]), pytest.approx([0, 1 / 3, 2 / 3])]


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-6, 1.0, 1e30])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4, 1e30])
def test_probabilities_are_always_probabilities(temperature: float, scale: float) -> None:
    """NaN stops `multinomial` with an error from inside torch."""
    logits = scale * torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    p = probabilities(logits, Sampling(temperature, top_k=5, top_p=0.9, min_p=0.05))
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(5))


def test_repetition_penalty_by_hand() -> None:
    """Dividing a negative logit would reward the repetition."""
    logits = torch.tensor([[2.0, -1.0, 1.0, -3.0]])
    occurred = torch.tensor([[True, True, False, False]])
    p = probabilities(logits, Sampling(repetition_penalty=2.0), occurred)
    expected = torch.tensor([[1.0, -2.0, 1.0, -3.0]]).softmax(-1)
    torch.testing.assert_close(p, expected)
    greedy = Sampling(temperature=0.0, repetition_penalty=2.5)
    assert probabilities(logits, greedy, occurred).argmax().item() == 2  # 2.0 / 2.5 < 1.0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("temperature", w) for w in (-0.1, INF, math.nan)]
    + [("top_k", w) for w in (0, -3)]
    + [("top_p", w) for w in (0.0, -0.5, 1.1, math.nan)]
    + [("min_p", w) for w in (-0.1, 1.0, math.nan)]
    + [("repetition_penalty", w) for w in (0.0, -1.0, INF, math.nan)],
)
def test_refusals_name_the_setting(name: str, wrong: float) -> None:
    """NaN or an empty choice would stop generation from inside torch."""
    with pytest.raises(UserError, match=rf"^{name} is {wrong}: it must be"):
        Sampling(**{name: wrong})


def streams(seed: int, rows: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed * 100 + row) for row in range(rows)]


def test_a_draw_depends_on_its_row_only() -> None:
    """A text would change with what is written beside it."""
    p = torch.full((3, 50), 0.02)
    together = [draw(p, generators).tolist() for generators in [streams(1, 3)] * 4]
    alone = [draw(p[:1], generators).tolist() for generators in [streams(1, 3)[2:]] * 4]
    assert [rows[2] for rows in together] == [rows[0] for rows in alone]
    assert len({row for rows in together for row in rows}) > 3


def test_draws_follow_the_probabilities() -> None:
    """A distribution that is not the one that was computed."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4)
    p: Tensor = torch.tensor([P])
    for _ in range(2000):
        counts[draw(p, [generator])] += 1
    torch.testing.assert_close(counts / 2000, p[0], rtol=0, atol=0.05)  # five deviations
