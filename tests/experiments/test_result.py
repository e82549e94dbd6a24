"""experiments/result.py: what an experiment stores is what a page loads."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from errors import UserError
from experiments.intervals import Interval
from experiments.result import Clock, is_outdated, load, report_folder, store, stored


@dataclass(frozen=True)
class Inner:
    """A nested result."""

    name: str
    score: Interval | None


@dataclass(frozen=True)
class Outer:
    """Every kind of field that results have."""

    number: int
    share: float
    flag: bool
    windows: tuple[int | None, ...]
    pair: tuple[str, float]
    inner: Inner
    rows: tuple[Inner, ...]
    lists: list[list[float]]
    by_name: dict[str, Inner]
    by_layer: dict[int, float]
    missing: Inner | None
    optional: tuple[float, ...] | None


INNER = Inner("a", Interval(0.5, 0.25, 0.75, 3))
OUTER = Outer(
    number=3, share=1.0, flag=True, windows=(8, None), pair=("x", 2.0), inner=INNER,
    rows=(INNER, Inner("b", None)), lists=[[1.0], []], by_name={"c": INNER},
    by_layer={0: 0.5, 1: 1.5}, missing=None, optional=(1.0, 2.0),
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A stored result."""
    return store(tmp_path, "reach", Clock("prog", ["a b", "--quick"]).about(quick=True), OUTER)


def test_a_result_is_loaded_as_it_was_stored(file: Path) -> None:
    """Tuples could come back as lists, nested results as dictionaries, 1.0 as 1."""
    about, result = load(file, Outer)
    assert result == OUTER
    assert type(result.share) is float and type(result.windows) is tuple
    assert about.command == "prog 'a b' --quick" and about.quick and about.seconds >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", about.date) and about.machine.cores >= 1


def damage(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return a change of the JSON of a stored file."""

    def apply(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return apply


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_text(""),
    "torn": lambda file: file.write_text(file.read_text()[:100]),
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe\xff"),
    "a list": lambda file: file.write_text("[]"),
    "no about": damage(lambda content: content.pop("about")),
    "no result": damage(lambda content: content.pop("result")),
    "result is null": damage(lambda content: content.update(result=None)),
    "a number for a result": damage(lambda content: content.update(result=7)),
    "a field less": damage(lambda content: content["result"].pop("share")),
    "a field more": damage(lambda content: content["result"].update(extra=1)),
    "text for a number": damage(lambda content: content["result"].update(number="3")),
    "null for a number": damage(lambda content: content["result"].update(number=None)),
    "a number for a text": damage(lambda content: content["result"]["inner"].update(name=3)),
    "a number for rows": damage(lambda content: content["result"].update(rows=3)),
    "a number for a mapping": damage(lambda content: content["result"].update(by_name=3)),
    "a list for a mapping": damage(lambda content: content["result"].update(by_name=[1])),
    "a text for rows": damage(lambda content: content["result"].update(optional="12")),
    "a list for an interval": damage(
        lambda content: content["result"]["inner"].update(score=["mean", "low", "high", "n"])
    ),
    "a wrong key": damage(lambda content: content["result"].update(by_layer={"x": 1.0})),
    "a pair of three": damage(lambda content: content["result"].update(pair=["x", 2.0, 3.0])),
    "a wrong interval": damage(lambda content: content["result"]["inner"].update(score={"n": 1})),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_line(name: str, file: Path) -> None:
    """A file of another version, or a torn one, could end the report page in a traceback."""
    DAMAGES[name](file)
    with pytest.raises(UserError, match="run its experiment again") as error:
        load(file, Outer)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_the_folder_of_results(tmp_path: Path) -> None:
    """The results about a checkpoint could land among the checkpoints."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "run" / "checkpoints" / "step-1.safetensors"
    file.touch()
    assert report_folder(file) == report_folder(tmp_path / "run") == tmp_path / "run" / "report"
    alone = tmp_path / "alone.safetensors"
    alone.touch()
    assert report_folder(alone) == tmp_path / "report"


def test_a_quick_result_does_not_replace_a_full_one(tmp_path: Path) -> None:
    """Numbers of a night could be lost to a look of three minutes."""
    assert stored(tmp_path, "reach") is None
    clock = Clock("prog", [])
    quick = store(tmp_path, "reach", clock.about(quick=True), OUTER)
    assert stored(tmp_path, "reach") == quick
    full = store(tmp_path, "reach", clock.about(), OUTER)
    assert full != quick and stored(tmp_path, "reach") == full
    store(tmp_path, "reach", clock.about(quick=True), OUTER)
    assert stored(tmp_path, "reach") == full and not load(full, Outer)[0].quick


@pytest.mark.parametrize("folder", [".", "window-8/seed-0"])
def test_other_checkpoints_make_a_result_outdated(folder: str, tmp_path: Path) -> None:
    """Numbers of an earlier model could stand beside the curve of the present one."""
    checkpoints = tmp_path / folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-00000010-aa.safetensors").touch()
    file = store(tmp_path, "reach", Clock("prog", []).about(), OUTER)
    assert not is_outdated(file)
    (checkpoints / "step-00000020-bb.safetensors").touch()
    assert is_outdated(file)
