"""Errors of the user: one exception type, printed in one place.

Every room raises `UserError` if the user can remove the cause. `command` prints it as one line on
stderr and returns exit code 2. Any other exception is a bug of ours and keeps its traceback. This
file imports none of the rooms, so that every room may import it.

A room knows its own argument, `sliding_window`, but not what the user wrote: `model.sliding_window`
in a config or `--window` on a command line. So a room names the field, and its caller the key:

    raise UserError("sliding_window is 0: it must be at least 1", field="sliding_window")
    with fields_named({"sliding_window": "--window"}): ...   # --window is 0: it must be at least 1
"""

import argparse
import errno
import functools
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

DIVERGED = 3  # exit code of a training run whose loss is not finite
BROKEN_PIPE = 141  # exit code that a shell gives to a program ended by SIGPIPE

# Errors of the operating system that the user can remove, each with its remedy.
_REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space") | {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions or choose another folder"
    ),
    errno.EFBIG: "choose a disk that holds larger files",
    errno.EIO: "check the disk",
    errno.ENAMETOOLONG: "give a shorter name",
}


class UserError(ValueError):
    """An error that the user can remove. The message is one line: what, where, what to do.

    `field` is the argument that is wrong, under its name in the function that raises the error. It
    is None if no argument is wrong, or if the message already names the user's key. `others` are
    more arguments that the message names.
    """

    def __init__(self, message: str, field: str | None = None, others: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.others = tuple(others)

    def renamed(self, names: Mapping[str, str]) -> "UserError":
        """Return this error with the names that the user wrote, from field to key or option.

        The name replaces the field at the beginning of the message; otherwise it is put in front.
        Of another field, the first mention is replaced. A field that is not in `names` stays.
        """
        message = str(self)
        for other in self.others:
            name = names.get(other, other)
            message = re.sub(rf"(?<![\w.]){other}\b", name, message, count=1)
        field = self.field
        if field is not None and field in names:
            begins = re.match(rf"{field}(?=[ =:])", message)
            field = names[field]
            message = field + message[begins.end() :] if begins else f"{field}: {message}"
        return UserError(message, field, [names.get(other, other) for other in self.others])


@contextmanager
def fields_named(names: Mapping[str, str]) -> Iterator[None]:
    """Name the fields of every `UserError` raised inside by the user's keys, `names[field]`.

    An error without a field, or about fields that `names` lacks, passes unchanged.
    """
    try:
        yield
    except UserError as error:
        if names.keys().isdisjoint((error.field, *error.others)):
            raise
        raise error.renamed(names) from error


@contextmanager
def located(place: object) -> Iterator[None]:
    """Put `place`, such as a file's path, in front of every `UserError` raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def require(library: str, extra: str) -> Any:
    """Import an optional library. Raises `UserError`, which names the extra that installs it."""
    try:
        return importlib.import_module(library)
    except ImportError:
        raise UserError(
            f'this needs the library {library}: pip install -e ".[{extra}]" installs it'
        ) from None


class Main(Protocol):
    """`main(argv=None)`: None means the command line. Returns the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors of one line, in which options and other words may stand in any order."""

    advise: Callable[[str], str | None] = staticmethod(lambda option: None)
    """Given an unknown option, return what to write instead, or None. `arguments.py` sets it."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line. Raises `UserError` for an option that does not exist."""
        for word in sys.argv[1:] if args is None else args:
            if re.fullmatch(r"--[\w-]+=--", word):  # argparse would make a list of it
                self.error(f"{word} has no value")
        arguments, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown:
            advice = self.advise(unknown[0])
            self.error(f"{unknown[0]} is unknown" + (f": {advice}" if advice else ""))
        return arguments

    parse_intermixed_args = parse_args

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage."""
        raise UserError(f"{message}; see {self.prog} --help")


def command(main: Callable[[Sequence[str] | None], int]) -> Main:
    """Wrap a `main(argv) -> exit code` so that errors of the user are printed as one line.

    `UserError` and errors of the operating system (disk full, no permission) return 2, Ctrl-C
    returns 130, and a closed pipe (`| head`) returns 141. Other exceptions propagate. Characters
    that the console cannot show are printed with replacements.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        _replace_unprintable()
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            # Otherwise Python reports the closed pipe again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except OSError as error:
            if error.errno not in _REMEDIES:
                raise
            place = f": {printable(str(error.filename)[:500])}" if error.filename else ""
            print(
                f"error: {error.strerror}{place}: {_REMEDIES[error.errno]}, then run the same "
                "command again (train.py with --resume); everything that was saved is intact",
                file=sys.stderr,
            )
            return 2
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 128 + signal.SIGINT

    return run


def printable(text: str) -> str:
    """Return `text` in one line, without characters that would steer a terminal: the name of a file
    may have them."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def _replace_unprintable() -> None:
    """Print `?` or an escape for a character that the console's encoding lacks, in every command.

    A test may replace stdout or stderr by a stream without an encoding; it is left unchanged.
    """
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
