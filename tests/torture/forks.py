"""Children that start at once: forked from this process, with everything imported."""

import gc
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NamedTuple

from errors import UserError


class Ended(NamedTuple):
    """How a child ended: `code` is what its function returned if that is a number; otherwise 0
    done, 2 refused (`OSError`, `UserError`), 1 any other exception; negative: killed by this
    signal. `printed` is what it printed, and the exception."""

    code: int
    printed: str


class Child:
    """A process that runs `act` and ends."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115
        self._ended: Ended | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = _in_the_child(act, self._printed.fileno())
            finally:  # never return to the caller of the parent
                os._exit(code)

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def is_running(self) -> bool:
        """Return whether it has not ended."""
        if self._ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)
        return self._ended is None

    def wait(self) -> Ended:
        """Wait until it ends."""
        if self._ended is None:
            self._end(os.waitpid(self.pid, 0)[1])
        assert self._ended is not None
        return self._ended

    def printed(self) -> str:
        """Return what it has printed so far."""
        return os.pread(self._printed.fileno(), 1 << 20, 0).decode(errors="replace")

    def _end(self, status: int) -> None:
        self._ended = Ended(os.waitstatus_to_exitcode(status), self.printed())
        self._printed.close()


def forked(act: Callable[[], object]) -> Ended:
    """Run `act` in a child."""
    return Child(act).wait()


def print_to_descriptors() -> None:
    """Let `print` write to descriptors 1 and 2, whatever they are now."""
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _in_the_child(act: Callable[[], object], printed: int) -> int:
    for descriptor in (1, 2):
        os.dup2(printed, descriptor)
    print_to_descriptors()
    later: list[str] = []  # errors of objects that are closed when they are deleted
    sys.unraisablehook = lambda found: later.append(f"{found.err_msg or ''} {found.exc_value!r}")
    code = 0
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = act()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = result if type(result) is int else 0
        del result
    except (OSError, UserError) as error:
        code = 2
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        code = 1
        traceback.print_exc()
    gc.collect()
    if later:
        code = 1
        print("Traceback: ignored:", "; ".join(later), file=sys.stderr)
    return code
