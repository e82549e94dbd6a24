"""A fast slice of each family of torture (`make torture` runs all cases)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torture.families import FAMILIES
from torture.family import Family, run_family
from torture.safety_lines import SAFETY_LINES

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_slice_of_each_family(family: Family, tmp_path: Path) -> None:
    """A run could be lost, or an input could crash the process."""
    outcome = run_family(family, tmp_path, fast=True)
    assert not outcome.failures
    if outcome.cases == 0:
        pytest.skip("no case can be run here: the output says what is missing")
    assert outcome.cases >= 2


@pytest.mark.slow
@pytest.mark.parametrize("soak", ["generate", "train"])
def test_nothing_grows_in_a_long_run(soak: str) -> None:
    """A leak in each step or token, which no short test shows. In a process of its own, because
    other tests leave memory."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "torture.soak", soak],
        env={**os.environ, "PYTHONPATH": paths}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_are_distinct() -> None:
    """Two families of one name would be run as one."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in SAFETY_LINES}))
def test_each_safety_line_is_where_the_list_says(file: str) -> None:
    """A list of lines that are gone would prove nothing: `make torture-mutants` breaks them."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for mutant in SAFETY_LINES:
        if mutant.file == file:
            assert text.count(mutant.line) == 1, mutant.line
            compile(text.replace(mutant.line, mutant.instead), file, "exec")


def test_each_rule_has_a_safety_line_and_each_family_exists() -> None:
    """A rule without a line that is broken, or a family that was renamed."""
    assert {mutant.rule for mutant in SAFETY_LINES} == set(range(1, 12))
    assert {mutant.family for mutant in SAFETY_LINES} <= {family.name for family in FAMILIES}
    assert len({(mutant.file, mutant.line) for mutant in SAFETY_LINES}) == len(SAFETY_LINES)
