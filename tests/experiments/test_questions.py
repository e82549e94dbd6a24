"""experiments/questions.py: docs/questions.md holds the stored numbers, and no others."""

import json
import re
import shutil
from pathlib import Path

import pytest

from errors import UserError
from experiments import questions
from experiments.answers import NUMBERS, PICTURES, SOURCES, Stored


def test_the_page_holds_the_stored_numbers() -> None:
    """A number typed by hand, or one that was measured again and not filled in."""
    text = questions.PAGE.read_text(encoding="utf-8")
    assert questions.fill(text, Stored(questions.FOLDER)) == text
    gaps = questions.GAP.findall(text)
    assert len(gaps) > 40 and {gap.split()[0] for gap in gaps} == set(NUMBERS)


def test_the_pictures_are_those_of_the_stored_results() -> None:
    """A picture of another measurement than the numbers beside it, or one that is not shown."""
    drawn = questions.pictures(Stored(questions.FOLDER))
    shown = re.findall(r"\(questions/([\w-]+\.svg)\)", questions.PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(drawn) == sorted(f"{name}.svg" for name in PICTURES)
    for name, content in drawn.items():
        assert (questions.FOLDER / name).read_text(encoding="utf-8") == content


def test_another_measurement_changes_the_page(tmp_path: Path) -> None:
    """A gap that does not depend on its result."""
    folder = tmp_path / "questions"
    shutil.copytree(questions.FOLDER, folder)
    data = json.loads((folder / "sweep.json").read_text())
    data["result"]["rows"][0]["bpb"]["mean"] = 9.8765
    (folder / "sweep.json").write_text(json.dumps(data))
    text = questions.PAGE.read_text(encoding="utf-8")
    filled = questions.fill(text, Stored(folder))
    assert filled.count("9.8765") == 1 and "9.8765" not in text


@pytest.mark.parametrize("gap", ["speed sweep 8", "bpb sweep 9", "bpb sweep", "sinks a b ratio"])
def test_a_gap_without_a_number_is_an_error(gap: str) -> None:
    """A page with an empty gap, or a traceback."""
    with pytest.raises(UserError, match=f"<!--{gap}--> names no stored number"):
        questions.fill(f"a <!--{gap}--><!--/--> b", Stored(questions.FOLDER))


def test_results_are_collected_from_runs(tmp_path: Path) -> None:
    """A result under another name, or a missing one that deletes the earlier."""
    runs, folder = tmp_path / "runs", tmp_path / "questions"
    folder.mkdir()
    (folder / "recall.json").write_text("earlier")
    with pytest.raises(UserError, match="has no results"):
        questions.collect(runs, folder)
    file = runs / SOURCES["sweep-1024"]
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    questions.collect(runs, folder)
    assert (folder / "sweep-1024.json").read_text() == "{}"
    assert (folder / "recall.json").read_text() == "earlier"
