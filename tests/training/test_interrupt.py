"""The first signal is stored, the second ends the process."""

import os
import signal

import pytest

from training.interrupt import STOPPING, StopRequest


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_is_stored(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A signal that ends the process at once would lose the steps since the last save."""
    before = [signal.getsignal(n) for n in STOPPING]
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        assert [signal.getsignal(n) for n in STOPPING] == before  # the next ends at once
    printed = capfd.readouterr().err
    assert signal.Signals(number).name in printed and "a second signal ends at once" in printed


def test_handlers_are_restored() -> None:
    """Ctrl-C could stop working in the code that runs afterwards."""
    before = [signal.getsignal(n) for n in STOPPING]
    with StopRequest():
        assert [signal.getsignal(n) for n in STOPPING] != before
    assert [signal.getsignal(n) for n in STOPPING] == before
