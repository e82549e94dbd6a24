"""Signals that stop a run. The training loop checks for them at the end of each step."""

import signal
import sys
from types import FrameType

STOPPING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])


class StopRequest:
    """Stores the first SIGINT, SIGTERM or SIGHUP in `signal`; the loop reads it after each step.

    The first signal restores the original handlers, so a second one ends the process at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._original = {number: signal.signal(number, self._store) for number in STOPPING}

    def _store(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.release()
        print(
            f"\n{signal.Signals(number).name}: finishing this step, then saving "
            "(a second signal ends at once, without saving)",
            file=sys.stderr,
        )

    def __enter__(self) -> "StopRequest":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Restore the handlers that were set before."""
        for number, handler in self._original.items():
            signal.signal(number, handler)
