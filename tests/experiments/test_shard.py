"""experiments.shard: a small text, prepared three times, once killed in the middle."""

import json
import re
from pathlib import Path

import pytest

from experiments import shard


@pytest.mark.slow
def test_a_small_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All three give the same files, and the JSON holds what is printed."""
    result = tmp_path / "result.json"
    assert shard.main(["--gigabytes", "0.05", "--json", str(result)]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\d+(?: killed)?) +[\d.]+ +[\d.]+ +([\d,]+)  (\w{16}) \((\d+) files\)$",
                      printed, re.MULTILINE)  # fmt: skip
    assert len(rows) == 3 and rows[2][0].endswith("killed")
    assert len({row[2] for row in rows}) == 1 and all(int(row[3]) >= 4 for row in rows)
    assert all(int(row[1].replace(",", "")) > 50 for row in rows)
    assert printed.rstrip().endswith("the shards are equal to the byte")
    written = json.loads(result.read_text())
    assert written["identical"] is True
    assert [p["shards_hash"] for p in written["preparations"]] == [row[2] for row in rows]
    assert [p["killed"] for p in written["preparations"]] == [False, False, True]


@pytest.mark.parametrize("size", ["0", "-1", "nan", "1e9"])
def test_impossible_sizes(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shard.main(["--gigabytes", size]) == 2
    assert "--gigabytes is" in capsys.readouterr().err
