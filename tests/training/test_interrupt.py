"""The first signal is noted, the second ends; a folder has one trainer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from errors import UserError
from training.interrupt import STOPPING, StopRequest, lock


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


def test_handlers_are_put_back(text: Path) -> None:
    """Ctrl-C that no longer works in whatever runs afterwards."""
    before = [signal.getsignal(n) for n in STOPPING]
    with StopRequest():
        assert [signal.getsignal(n) for n in STOPPING] != before
    assert [signal.getsignal(n) for n in STOPPING] == before


def test_lock_is_exclusive_and_freed(tmp_path: Path) -> None:
    """Two trainers in a folder would delete each other's checkpoints."""
    with lock(tmp_path), pytest.raises(UserError, match=f"another process .*{tmp_path}"):
        lock(tmp_path)
    with lock(tmp_path):
        pass


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    """A lock that outlives kill -9 would have to be removed by hand."""
    script = (
        "import os, pathlib; from training.interrupt import lock; "
        f"held = lock(pathlib.Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    )
    folder = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=folder).returncode == -9
    lock(tmp_path).close()
