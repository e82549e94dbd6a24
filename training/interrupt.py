"""Signals that stop a run, and the lock that lets one process train in a folder."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import IO

from errors import UserError

STOPPING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])


class StopRequest:
    """Stores the first SIGINT, SIGTERM or SIGHUP in `signal`; the loop reads it after each step.

    The first signal restores the original handlers, so a second one ends the process at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before = {number: signal.signal(number, self._store) for number in STOPPING}

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
        for number, handler in self._before.items():
            signal.signal(number, handler)


def lock(folder: Path) -> IO[bytes]:
    """Hold an exclusive lock on a run's folder; the system releases it when this process ends.

    Keep the returned file open. Raises `UserError` if another process trains in the folder. On
    Windows nothing is locked.
    """
    file = (folder / ".lock").open("wb")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"another process is training in {folder}: wait for it, stop it, or "
                "choose another folder with run_dir=..."
            ) from None
    return file
