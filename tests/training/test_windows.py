"""The window's schedule, by hand."""

import hashlib
from collections import Counter

import pytest

from training.choices import WINDOW_SCHEDULES
from training.windows import windows_at

STACK = (64, 64, None)


def at(step: int, schedule: str, **settings: object) -> tuple[int | None, ...]:
    options = {"narrow": (16,), "steps": 300, "choices": (1, 4, None), "seq_len": 64} | settings
    return windows_at(step, STACK, schedule=schedule, **options)  # type: ignore[arg-type]


def test_the_table_in_the_docstring() -> None:
    """The table in the docstring could differ from the schedule."""
    for first, grow, depth in [
        (0, (16, 16, 16), (16, 16, 16)),
        (100, (32, 32, 32), (64, 16, 16)),
        (200, (64, 64, 64), (64, 64, 16)),
    ]:
        for step in (first, first + 99):
            assert at(step, "grow") == grow
            assert at(step, "depth") == depth
    assert at(300, "grow") == at(300, "depth") == at(10**9, "grow") == STACK
    rows = [(2, 2, 8), (4, 4, 16), (8, 8, 32), (16, 16, 64), (32, 32, 64), (64, 64, 64), STACK]
    for number, windows in enumerate(rows):
        assert at(50 * number, "grow", narrow=(2, 8)) == windows
        assert at(50 * number + 49, "grow", narrow=(2, 8)) == windows


@pytest.mark.parametrize("schedule", ["grow", "depth"])
def test_windows_stay_narrow_before_start(schedule: str) -> None:
    """Windows that widen during the drills: copying does not form in them (docs/LOG.md)."""
    for step in range(400):
        later = at(step + 70, schedule, start=70)
        assert later == at(step, schedule)
    assert {at(step, schedule, start=70) for step in range(70)} == {(16, 16, 16)}


@pytest.mark.parametrize("schedule", ["grow", "depth"])
@pytest.mark.parametrize("narrow", [(1,), (3,), (16,), (64,), (100,), (2, 8), (8, 2, 1, 1)])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_windows_only_widen(schedule: str, narrow: tuple[int, ...], steps: int) -> None:
    """A layer whose window shrinks would lose what it learned; a window wider than the model's
    would train on keys that inference lacks."""
    before = (0, 0, 0)
    for step in range(steps + 1):
        now = tuple(64 if w is None else w for w in at(step, schedule, narrow=narrow, steps=steps))
        assert all(a <= b <= 64 for a, b in zip(before, now, strict=True))
        before = now
    assert before == (64, 64, 64)


def test_random_draws_each_choice_by_seed_and_step_alone() -> None:
    """A draw that depends on earlier draws could not be resumed."""
    drawn = [at(step, "random") for step in range(600)]
    assert all(len(set(windows)) == 1 for windows in drawn)
    counts = Counter(windows[0] for windows in drawn)
    assert set(counts) == {1, 4, None} and min(counts.values()) > 150
    assert drawn[::-1] == [at(step, "random") for step in range(599, -1, -1)]
    assert drawn != [at(step, "random", seed=1) for step in range(600)]


def test_constant_is_the_models_own() -> None:
    """The default schedule could change the model's windows."""
    assert "constant" in WINDOW_SCHEDULES and at(0, "constant") == at(999, "constant") == STACK


@pytest.mark.parametrize(
    ("schedule", "digest"),
    [("grow", "0c8d82caa65ddd80"), ("depth", "b3ae231a55161a53"), ("random", "04298633c3925a8d")],
)
def test_the_first_thousand_windows_are_pinned(schedule: str, digest: str) -> None:
    """A change of the windows changes the rest of every resumed run."""
    windows = str([at(step, schedule, narrow=(2, 8), start=70, seed=1234) for step in range(1000)])
    assert hashlib.sha256(windows.encode()).hexdigest()[:16] == digest
