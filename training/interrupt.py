"""Signals that stop a run. The training loop checks for them at the end of each step."""

import os
import signal
import sys
from types import FrameType

STOPPING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])


class StopRequest:
    """Stores the first SIGINT, SIGTERM or SIGHUP in `signal`; the loop reads it after each step.

    The first signal restores the original handlers, so a second one ends the process at once. A
    signal that was ignored before, such as SIGHUP under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        # Complete before the first handler is set, because a signal may come at any time.
        self._original = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
        for number in self._original:
            signal.signal(number, self._store)

    def _store(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.release()
        _print_in_handler(
            f"\n{signal.Signals(number).name}: finishing this step, then saving "
            "(a second signal ends at once, without saving)\n"
        )

    def __enter__(self) -> "StopRequest":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Restore the handlers that were set before."""
        for number, handler in self._original.items():
            signal.signal(number, handler)


def _print_in_handler(text: str) -> None:
    """Print to stderr. If its terminal or pipe is gone, later output is dropped, so that the run is
    still saved.

    `print` may not be used here: it fails if the signal interrupted another `print`.
    """
    try:
        os.write(2, text.encode())
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if os.path.sameopenfile(1, 2):  # noqa: PTH - no path: open files
            os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
