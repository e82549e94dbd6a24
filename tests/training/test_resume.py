"""A resumed run with another max_steps: what is said, and what is refused.

That the bytes are those that the note promises is shown by tests/torture/resumes.py.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from configs.settings import Config
from errors import UserError
from training.resume import refuse_changes

THE_SAME = "It was before too: the run becomes one of"
ANOTHER = "It was not before: the run is not one of"


def note(step: int, before: dict[str, Any], now: dict[str, Any], run: pytest.CaptureFixture) -> str:
    """Resume after `step` steps, with settings of the training before and now; return the note."""
    checkpoint: Any = SimpleNamespace(step=step, metadata={"data_hash": ""}, tokenizer=bytes)
    configs = [Config().to_dict() for _ in range(2)]
    for config, changes in zip(configs, (before, now), strict=True):
        config["train"] |= {"warmup_steps": 10} | changes
    refuse_changes(checkpoint, *configs, tokenizer=b"", data_hash="", folder="runs/a")
    return run.readouterr().err


@pytest.mark.parametrize(
    ("schedule", "step", "now", "expected"),
    [
        ("cosine", 11, 200, THE_SAME),  # the warm-up, and the first step at the peak
        ("cosine", 12, 200, ANOTHER),
        ("cosine", 12, 80, ANOTHER),
        ("linear", 11, 200, THE_SAME),
        ("linear", 12, 200, ANOTHER),
        ("wsd", 81, 200, THE_SAME),  # the decay begins after step 80 of 100
        ("wsd", 82, 200, ANOTHER),
        ("wsd", 100, 200, ANOTHER),
        ("wsd", 41, 50, THE_SAME),  # the decay of 50 steps begins after step 40
        ("wsd", 42, 50, ANOTHER),
    ],
)
def test_another_length_says_what_it_means(
    schedule: str, step: int, now: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is neither of one length nor of the other could be taken for one of them."""
    of_schedule = {"schedule": schedule, "max_steps": 100}
    printed = note(step, of_schedule, of_schedule | {"max_steps": now}, capsys)
    assert printed.count("\n") == 1
    assert printed.startswith(
        f"note: train.max_steps was 100 and is now {now}; from step {step} on the learning rate is "
        f"that of {now} steps. {expected} {now} steps"
    )


def test_a_run_at_its_new_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is left to do, so nothing is said about steps to come."""
    printed = note(80, {"max_steps": 100}, {"max_steps": 80}, capsys)
    assert printed == "note: train.max_steps was 100 and is now 80\n"


def test_a_run_past_its_new_end_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml would say 50 steps, and the checkpoint beside it 80."""
    with pytest.raises(UserError) as caught:
        note(80, {"max_steps": 100}, {"max_steps": 50}, capsys)
    assert str(caught.value) == (
        "train.max_steps is 50, but the run has done 80 steps: make it 80 or more, or start "
        "another run with run_dir=runs/NAME"
    )


def test_an_equal_length_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A note about nothing."""
    assert note(80, {"max_steps": 100}, {"max_steps": 100}, capsys) == ""
