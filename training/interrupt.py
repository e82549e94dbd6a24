"""Signals and the run's lock: how a run ends when somebody ends it, and who may write to it."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import IO

from errors import UserError

STOPPING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])


class StopRequest:
    """Notes the first SIGINT, SIGTERM or SIGHUP, for the loop to read at its step boundary.

    The second signal finds the original handlers and ends the process at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before = {number: signal.signal(number, self._note) for number in STOPPING}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.release()
        print(
            f"\n{signal.Signals(number).name}: finishing this step, then saving "
            "(once more ends at once, without saving)",
            file=sys.stderr,
        )

    def __enter__(self) -> "StopRequest":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def lock(folder: Path) -> IO[bytes]:
    """Hold the run's folder for this process; the kernel lets go of it however the process ends.

    Keep the returned file open. Raises `UserError` if another process trains in the folder. On
    Windows there is no such lock and none is held.
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
