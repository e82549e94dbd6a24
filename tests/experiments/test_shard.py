"""experiments.shard: a small text, prepared three ways, one of them killed."""

import re

import pytest

from experiments import shard


@pytest.mark.slow
def test_a_small_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A kill that came too late, or a hash of nothing, would prove nothing."""
    assert shard.main(["--gigabytes", "0.05"]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\d+(?: killed)?) +[\d.]+ +[\d.]+ +([\d,]+)  (\w{16}) \((\d+) files\)$",
                      printed, re.MULTILINE)  # fmt: skip
    assert len(rows) == 3 and rows[2][0].endswith("killed")
    assert len({row[2] for row in rows}) == 1 and all(int(row[3]) >= 4 for row in rows)
    assert all(int(row[1].replace(",", "")) > 50 for row in rows)
    assert printed.rstrip().endswith("the same, to the byte")


@pytest.mark.parametrize("size", ["0", "-1", "nan", "1e9"])
def test_sizes_that_are_none(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shard.main(["--gigabytes", size]) == 2
    assert "--gigabytes is" in capsys.readouterr().err
