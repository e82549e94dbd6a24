"""errors.py: one line on stderr, an exit code, and the names that the user wrote."""

import errno
import os
from collections.abc import Sequence

import pytest

from errors import ArgumentParser, UserError, command, fields_named


def test_the_name_replaces_the_field_or_stands_in_front() -> None:
    """A message that names an argument which the user never wrote."""

    def renamed(message: str, name: str) -> str:
        return str(UserError(message, field="path").renamed({"path": name, "other": "x"}))

    assert renamed("path is empty: give a file", "--file") == "--file is empty: give a file"
    assert renamed("path=x: not here", "data.path") == "data.path=x: not here"
    assert renamed("a.txt does not exist", "--file") == "--file: a.txt does not exist"
    assert renamed("path/a.txt does not exist", "--file") == "--file: path/a.txt does not exist"
    assert renamed("paths differ", "x") == "x: paths differ"


def test_other_fields_of_the_message_are_renamed_too() -> None:
    """`model.n_heads (4) is not divisible by n_kv_heads (3)`: half of the names are keys."""
    names = {"near": "data.near", "far": "data.far"}
    error = UserError("near is 9, more than far, 5", "near", ["far"])
    assert str(error.renamed(names)) == "data.near is 9, more than data.far, 5"
    advice = UserError("too few documents: split=tail helps", others=["split"])
    assert (
        str(advice.renamed({"split": "data.split"})) == "too few documents: data.split=tail helps"
    )
    assert str(error.renamed({"far": "--far"})) == "near is 9, more than --far, 5"


def test_names_can_be_renamed_on_the_way() -> None:
    """`data.path` in an error about a path that `data.mix` names."""
    with (
        pytest.raises(UserError) as caught,
        fields_named({"path": "data.path", "mix": "data.mix"}),
        fields_named({"path": "mix"}),
    ):
        raise UserError("a.txt does not exist", field="path")
    assert (str(caught.value), caught.value.field) == ("data.mix: a.txt does not exist", "data.mix")


def test_fields_are_named_once_by_the_nearest_caller() -> None:
    """Two callers that name the same field could both add their name: `--file: data.path: ...`."""

    def raised(error: UserError) -> str:
        with (
            pytest.raises(UserError) as caught,
            fields_named({"path": "data.path"}),
            fields_named({"path": "--file"}),
        ):
            raise error
        return str(caught.value)

    assert raised(UserError("no such file", field="path")) == "--file: no such file"
    assert raised(UserError("no such file", field="other")) == "no such file"
    assert raised(UserError("no such file")) == "no such file"


def test_options_and_words_in_any_order() -> None:
    """`train.py --resume key=value` could be refused, because an option stands before a word."""
    parser = ArgumentParser(prog="x")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int)
    for line in (
        "a b=1 --resume --steps 3",
        "--steps 3 a --resume b=1",
        "--resume a --steps=3 b=1",
    ):
        assert vars(parser.parse_args(line.split())) == {
            "words": ["a", "b=1"], "resume": True, "steps": 3,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--stepz 3", "--stepz is unknown; see x --help"),
        ("--steps many", "argument --steps: invalid int value: 'many'; see x --help"),
        ("a b", "b is unknown; see x --help"),
    ],
)
def test_a_wrong_command_line_is_one_line(line: str, message: str) -> None:
    """The user would get a page of usage, with the error in its last line."""
    parser = ArgumentParser(prog="x")
    parser.add_argument("run", nargs="?")
    parser.add_argument("--steps", type=int)
    with pytest.raises(UserError) as caught:
        parser.parse_args(line.split())
    assert str(caught.value) == message


def test_advice_on_an_unknown_option() -> None:
    """An option of another program could be refused without the right spelling."""
    parser = ArgumentParser(prog="x")
    parser.advise = lambda option: f"write {option.strip('-')}"
    with pytest.raises(UserError, match=r"^--lr=1 is unknown: write lr=1; see x --help$"):
        parser.parse_args(["--lr=1"])


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "change its permissions or choose another folder"),
        (errno.EROFS, "change its permissions or choose another folder"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EIO, "check the disk"),
    ],
)
def test_each_error_of_the_system_has_its_own_remedy(
    number: int, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A remedy could fit another error: `Permission denied: free some space`."""

    @command
    def main(argv: Sequence[str] | None = None) -> int:
        raise OSError(number, os.strerror(number), "/x/y")

    assert main() == 2
    assert capsys.readouterr().err == (
        f"error: {os.strerror(number)}: /x/y: {remedy}, then run the same command again "
        "(train.py with --resume); "
        "everything that was saved is intact\n"
    )


def test_other_errors_keep_their_traceback() -> None:
    """A bug of ours could be reported as an error of the user."""

    @command
    def main(argv: Sequence[str] | None = None) -> int:
        raise OSError(errno.ENOENT, "No such file")

    with pytest.raises(OSError, match="No such file"):
        main()
