"""The user's mistakes: one exception type, printed in one place.

Every room raises `UserError` when the user can mend the cause; `command` turns it into one line on
stderr and exit code 2. Whatever else escapes is our bug and keeps its traceback. This file imports
none of the rooms, so that all of them may import it.
"""

import argparse
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

DIVERGED = 3  # exit code of a training run whose loss is no longer a number


class Main(Protocol):
    """`main(argv=None)`: None means the command line. Returns the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


# What the operating system refuses for the user's reasons (space, rights, limits), not for ours.
_ENVIRONMENT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EFBIG,
}


class UserError(ValueError):
    """A mistake of the user's. The message is one line: what, where, what to do."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, whose complaints are one line too."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage."""
        raise UserError(f"{message}; see {self.prog} --help")


def command(main: Callable[[Sequence[str] | None], int]) -> Main:
    """Wrap a `main(argv) -> exit code` so that the user's mistakes read as one line.

    `UserError` and a refusal by the operating system (disk full, no permission) return 2; Ctrl-C
    returns 130; a reader that went away (`| head`) returns 141. All else propagates.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            # Python would complain once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except OSError as error:
            if error.errno not in _ENVIRONMENT:
                raise
            where = f" ({error.filename})" if error.filename else ""
            print(
                f"error: {error.strerror}{where}: free what is missing, then run the same command "
                "again; nothing that was saved is lost",
                file=sys.stderr,
            )
            return 2
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 128 + signal.SIGINT

    return run
