"""metrics.jsonl and samples.txt hold each step once, whatever came between."""

import json
from pathlib import Path

import pytest

from training.metrics import MetricsLog, SamplesLog


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    """A kill loses what a buffer holds; who watches the file sees nothing for minutes."""
    log = MetricsLog(tmp_path / "m", 0)
    log.write(1, train_loss=2.5)
    assert json.loads((tmp_path / "m").read_text()) == {"step": 1, "train_loss": 2.5}


def test_lines_past_the_step_are_cut(tmp_path: Path) -> None:
    """A resumed run writes steps 3 and 4 again: they would stand there twice."""
    path = tmp_path / "m"
    path.write_text("".join(f'{{"step": {n}, "x": {n}}}\n' for n in (1, 2, 2, 3, 4)))
    MetricsLog(path, 2).write(3, x=30)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["x"]) for line in lines] == [(1, 1), (2, 2), (2, 2), (3, 30)]


@pytest.mark.parametrize(
    "torn",
    [b'{"step": 2, "tr', b"\xff\xfe\x00\x00", b"\x00\x00\x00", b"[2]", b'{"step": null}', b""],
)
def test_a_torn_last_line_is_cut(tmp_path: Path, torn: bytes) -> None:
    """A power cut leaves half a line, or zeros, or whatever was on the disk."""
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n' + torn)
    MetricsLog(path, 5).write(2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_samples_past_the_step_are_cut(tmp_path: Path) -> None:
    """The same for the texts, the last of which may be torn."""
    log = SamplesLog(tmp_path / "s", 0)
    for step in (2, 4, 6):
        log.write(step, 1.5, f"text\nof {step} \ufffd é")
    whole = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(whole[:-4])
    SamplesLog(tmp_path / "s", 4).write(6, 1.5, "text\nof 6 \ufffd é")
    assert (tmp_path / "s").read_bytes() == whole
    SamplesLog(tmp_path / "s", 0)
    assert (tmp_path / "s").read_bytes() == b""
