"""checks/differences.py: what counts as a difference, and how large it is."""

import math

import pytest
import torch

from checks.differences import exact_difference, max_difference, require, row_differences


def test_a_difference_of_each_row() -> None:
    """A row could be compared with another row; large numbers could get an absolute difference."""
    expected = torch.tensor([[1.0, 0.0], [0.5, -0.25]])
    actual = torch.tensor([[1.0, 0.0], [0.5, 0.25]])
    assert list(row_differences(actual, expected)) == [0.0, 0.5]
    assert list(row_differences(10 * actual, 10 * expected)) == [0.0, 0.5]  # relative above 1
    assert max_difference(actual / 10, expected / 10) == pytest.approx(0.05)  # absolute below 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_infinite_difference(value: float) -> None:
    """NaN is neither larger nor smaller than a tolerance."""
    expected = torch.zeros(2, 2)
    actual = torch.tensor([[0.0, value], [0.0, 0.0]])
    assert list(row_differences(actual, expected)) == [math.inf]
    assert max_difference(actual, expected) == exact_difference(actual, expected) == math.inf


def test_another_shape_is_an_infinite_difference() -> None:
    """Tensors that broadcast to each other are not equal."""
    assert list(row_differences(torch.zeros(3, 2), torch.zeros(1, 2))) == [math.inf]


def test_the_last_bit_is_a_difference() -> None:
    """A tolerance of 0 could accept a difference that rounds to 0."""
    ones = torch.ones(3)
    assert exact_difference(ones, ones.clone()) == 0
    assert exact_difference(torch.nextafter(ones, 2 * ones), ones) > 0


def test_require() -> None:
    """A false condition could count as a small difference."""
    assert (require(True), require(False)) == (0.0, math.inf)
    assert require(torch.tensor(False)) == math.inf
