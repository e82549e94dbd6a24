"""The learning rate, by hand."""

import hashlib
import itertools

import pytest

from training.choices import SCHEDULES
from training.schedule import lr_ratio


def rates(max_steps: int = 100, **settings: object) -> list[float]:
    options = {"schedule": "cosine", "warmup_steps": 10, "min_lr_ratio": 0.1} | settings
    return [lr_ratio(step, max_steps=max_steps, **options) for step in range(max_steps)]  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up(schedule: str) -> None:
    """A first update at rate 0 would have no effect; one at the full rate may be too large.

    Of 10 steps of warm-up the first has rate 1/11, the last 10/11; the next step has rate 1."""
    values = rates(schedule=schedule)
    assert values[:10] == pytest.approx([k / 11 for k in range(1, 11)])
    assert values[10] == 1.0 and max(values) == 1.0


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.55), ("linear", 0.55), ("wsd", 1.0)])
def test_the_middle_of_the_fall(schedule: str, middle: float) -> None:
    """Half way, cosine and linear are at the mean of 1 and 0.1; wsd has not begun to fall."""
    assert rates(schedule=schedule)[55] == pytest.approx(middle)


def test_a_quarter_of_the_cosine() -> None:
    """cos(45 degrees) = 0.70711: (1 + 0.70711) / 2 = 0.85355 of the way, at step 4 of 16."""
    values = rates(16, warmup_steps=0, min_lr_ratio=0.0)
    assert values[4] == pytest.approx(0.8535534)
    assert values[0] == 1.0 and values[8] == pytest.approx(0.5)


def test_wsd_stays_and_then_falls() -> None:
    """The last 20 of 100 steps fall from 1 by 0.9/20 each."""
    values = rates(schedule="wsd", decay_fraction=0.2)
    assert set(values[10:81]) == {1.0}
    assert values[81] == pytest.approx(1 - 0.045) and values[99] == pytest.approx(0.1 + 0.045)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("least", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("warmup_steps", [0, 1, 49])
@pytest.mark.parametrize("decay_fraction", [0.01, 0.5, 1.0])
def test_rises_then_falls_within_its_range(
    schedule: str, least: float, warmup_steps: int, decay_fraction: float
) -> None:
    """A negative rate would increase the loss; a rise late in the run would undo progress."""
    values = rates(50, schedule=schedule, min_lr_ratio=least, warmup_steps=warmup_steps,
                   decay_fraction=decay_fraction)  # fmt: skip
    assert all(0 < value <= 1 for value in values) or least == 0
    assert min(values) >= 0
    pairs = list(itertools.pairwise(values))
    assert all(a < b for a, b in pairs[:warmup_steps])
    assert all(a >= b for a, b in pairs[warmup_steps:])
    assert min(values[warmup_steps:]) >= least


def test_past_the_end_it_stays() -> None:
    """A run whose max_steps was raised must not see the cosine rise again."""
    assert lr_ratio(1000, schedule="cosine", max_steps=10, warmup_steps=1, min_lr_ratio=0.1) == (
        pytest.approx(0.1)
    )
    assert lr_ratio(0, schedule="linear", max_steps=1, warmup_steps=0) == 1.0


@pytest.mark.parametrize(
    ("schedule", "digest"),
    [("cosine", "98f8d79c760f00f7"), ("linear", "b5b3c7be1de55811"), ("wsd", "3342b967ce1928c6")],
)
def test_the_first_thousand_rates_are_pinned(schedule: str, digest: str) -> None:
    """A change of the schedule changes the rest of every resumed run. Rounded to 12 digits, because
    the cosine of another C library may differ in the last one."""
    values = rates(1000, schedule=schedule, warmup_steps=40)
    text = " ".join(f"{value:.12f}" for value in values)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest
