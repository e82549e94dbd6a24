"""A fast slice of each family of torture (`make torture` runs all cases)."""

from pathlib import Path

import pytest
from torture.families import FAMILIES
from torture.family import Family, run_family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_slice_of_each_family(family: Family, tmp_path: Path) -> None:
    """A run could be lost, or an input could crash the process."""
    outcome = run_family(family, tmp_path, fast=True)
    assert not outcome.failures
    assert outcome.cases >= 5


def test_names_are_distinct() -> None:
    """Two families of one name would be run as one."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
