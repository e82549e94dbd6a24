"""checks/check.py and models.py: when a check holds, and the random weights that it runs on."""

from typing import Any

import pytest
import torch

from checks import Check
from checks.check import check
from checks.models import random_model
from model.config import ModelConfig


def test_a_check_without_cases_does_not_hold() -> None:
    """A generator that yields no case would be a check that cannot fail."""
    assert not Check("empty", "nothing", 0, 0.0, 0.0).holds
    assert Check("empty", "nothing", 0, 0.0, 0.0, "the model has none").holds
    assert not Check("wrong", "something", 5, 2e-9, 1e-9, "a note").holds


@pytest.mark.parametrize("difference", [float("nan"), float("inf"), 1e-8])
def test_a_difference_fails(difference: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is neither larger nor smaller than the tolerance, whether it comes first or last."""
    monkeypatch.setattr("checks.check.CHECKS", {})
    for cases in ([difference, 0.0], [0.0, difference]):

        def differences(_: Any, cases: list[float] = cases) -> Any:
            yield from cases

        model = random_model(ModelConfig(vocab_size=61, dim=16), 0)
        assert not check("a name", "a claim", 1e-9)(differences)(model).holds


def test_every_random_weight_matters() -> None:
    """Projections of zero hide the output of attention: every check would hold."""
    shape = ModelConfig(
        vocab_size=61, dim=16, n_layers=2, sliding_window=3, sink_token=True, sink_logits=True
    )
    model = random_model(shape, 0)
    model(torch.arange(9)[None]).square().sum().backward()
    for name, weight in model.named_parameters():
        used = weight.grad if name != "tok_embeddings.weight" else weight.grad[:9]  # type: ignore[index]
        assert used is not None and (used != 0).any(), name
        assert (weight != 0).all(), name
    again, other = random_model(shape, 0), random_model(shape, 1)
    assert torch.equal(again.output.weight, model.output.weight)
    assert not torch.equal(other.output.weight, model.output.weight)
