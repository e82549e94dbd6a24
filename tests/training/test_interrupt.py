"""The first signal is noted, the second ends the process."""

import os
import signal

import pytest

from training.interrupt import STOPPING, StopRequest


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_is_noted(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A signal that ends the process at once loses the steps since the last save."""
    before = [signal.getsignal(n) for n in STOPPING]
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        assert [signal.getsignal(n) for n in STOPPING] == before  # the next ends at once
    said = capfd.readouterr().err
    assert signal.Signals(number).name in said and "a second signal ends at once" in said


def test_handlers_are_put_back() -> None:
    """Ctrl-C that no longer works in whatever runs afterwards."""
    before = [signal.getsignal(n) for n in STOPPING]
    with StopRequest():
        assert [signal.getsignal(n) for n in STOPPING] != before
    assert [signal.getsignal(n) for n in STOPPING] == before
