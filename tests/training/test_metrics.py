"""metrics.jsonl and samples.txt hold each step once, whatever interrupted the run."""

import json
from pathlib import Path

import pytest

from errors import UserError
from training.metrics import MetricsLog, SamplesLog, read_metrics

TORN = [b'{"step": 2, "tr', b"\xff\xfe\x00\x00", b"\x00\x00\x00", b"[2]", b'{"step": null}', b""]


def test_a_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    """A buffered line would be lost if the process is killed, and nobody could follow the run."""
    log = MetricsLog(tmp_path / "m", 0)
    log.write(1, train_loss=2.5)
    assert json.loads((tmp_path / "m").read_text()) == {"step": 1, "train_loss": 2.5}


def test_lines_of_later_steps_are_cut(tmp_path: Path) -> None:
    """A resumed run writes steps 3 and 4 again: the file would have both twice."""
    path = tmp_path / "m"
    path.write_text("".join(f'{{"step": {n}, "x": {n}}}\n' for n in (1, 2, 2, 3, 4)))
    MetricsLog(path, 2).write(3, x=30)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["x"]) for line in lines] == [(1, 1), (2, 2), (2, 2), (3, 30)]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_last_line_is_cut(tmp_path: Path, torn: bytes) -> None:
    """A power cut leaves half a line, zeros, or earlier content of the disk."""
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n' + torn)
    MetricsLog(path, 5).write(2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("torn", TORN)
def test_what_was_written_is_read(tmp_path: Path, torn: bytes) -> None:
    """The reader could fail on the file of a running or killed run, or lose a number."""
    log = MetricsLog(tmp_path / "m", 0)
    log.write(1, train_loss=2.5, lr=1e-3)
    log.write(2, val_loss=float("inf"))
    with (tmp_path / "m").open("ab") as file:
        file.write(torn)
    assert read_metrics(tmp_path / "m") == [
        {"step": 1, "train_loss": 2.5, "lr": 0.001}, {"step": 2, "val_loss": float("inf")}
    ]  # fmt: skip


def test_a_run_without_metrics_is_an_error(tmp_path: Path) -> None:
    """A wrong name would end in FileNotFoundError, a traceback."""
    with pytest.raises(UserError, match="m does not exist"):
        read_metrics(tmp_path / "m")


def test_samples_of_later_steps_are_cut(tmp_path: Path) -> None:
    """As for metrics: the last sample of samples.txt may be torn."""
    log = SamplesLog(tmp_path / "s", 0)
    for step in (2, 4, 6):
        log.write(step, 1.5, f"text\nof {step} \ufffd é")
    whole = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(whole[:-4])
    SamplesLog(tmp_path / "s", 4).write(6, 1.5, "text\nof 6 \ufffd é")
    assert (tmp_path / "s").read_bytes() == whole
    SamplesLog(tmp_path / "s", 0)
    assert (tmp_path / "s").read_bytes() == b""
