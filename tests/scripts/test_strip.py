"""A stripped checkpoint is used like the whole one, and cannot be resumed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import last, resume, start

import train
from inference.trained import open_trained
from scripts import evaluate, sample, strip


@pytest.fixture
def stripped(finished: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    assert strip.main([str(finished), "--out", str(path)]) == 0
    return path


def test_weights_and_tokenizer_stay_and_moments_go(finished: Path, stripped: Path) -> None:
    """A weight lost, or a file as large as before."""
    whole, small = load_file(last(finished)), load_file(stripped)
    assert small.keys() == {name for name in whole if not name.startswith("moments/")}
    assert all(torch.equal(small[name], whole[name]) for name in small)
    assert stripped.stat().st_size < 0.6 * last(finished).stat().st_size
    ours, theirs = open_trained(stripped).checkpoint, open_trained(finished).checkpoint
    assert ours.metadata == theirs.metadata


def test_it_writes_and_scores_as_the_whole_one(
    finished: Path, stripped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that only looks like a checkpoint."""
    written = []
    for path in (last(finished), stripped):
        assert sample.main([str(path), "--prompt", "the ", "--max-tokens", "20"]) == 0
        assert evaluate.main([str(path)]) == 0
        written.append(capsys.readouterr().out.replace(str(path), "FILE"))
    assert written[0] == written[1]


def test_resuming_it_is_refused_with_the_way_on(
    run: Path, stripped: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Moments that start at zero in the middle of a run, or a traceback about a missing name."""
    import hashlib

    digest = hashlib.sha256(stripped.read_bytes()).hexdigest()[:16]
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    shutil.copy(stripped, run / f"checkpoints/step-00000010-{digest}.safetensors")
    assert resume(run, text, "train.max_steps=12") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "holds no moments" in line and "train.init_from=" in line
    assert train.main([str(stripped), "--resume"]) == 2
    assert "is a checkpoint, not a config" in capsys.readouterr().err
    defaults = ["tokenizer.type=bpe", "tokenizer.vocab_size=2048"]  # init_from brings the tokenizer
    assert start(tmp_path / "next", text, f"train.init_from={stripped}", *defaults) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("there.safetensors", "exists"),
        ("model.bin", "must end in"),
        ("no/x.safetensors", "does not exist"),
    ],
)
def test_a_wrong_name_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, expected: str
) -> None:
    """A file that is overwritten: it may be the only checkpoint that can be resumed."""
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    assert strip.main([str(finished), "--out", str(tmp_path / name)]) == 2
    assert expected in capsys.readouterr().err
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
