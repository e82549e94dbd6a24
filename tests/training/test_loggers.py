"""Trackers hold what metrics.jsonl and samples.txt hold, each step once, and never stop a run."""

import ast
import json
import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny import ROOT, measured, start

import training.run_log
from configs.load import load_config
from errors import UserError
from training.loggers import refuse_unavailable, run_id
from training.metrics import read_metrics
from training.run_log import RunLog

TRACKERS = ("tensorboard", "wandb", "trackio")
KILLED_AT, SAVED_AT, STEPS = 11, 9, 16

TRAIN = f"""
import os, sys, time, tiny, train
from pathlib import Path
run, text, resumed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "resume"
step = train.train_step
def killed(state, *rest):
    if state.step == {KILLED_AT} and not resumed:
        time.sleep(3)  # wandb's own process writes half a second late
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    return step(state, *rest)
train.train_step = killed
more = ["train.loggers=[tensorboard,wandb,trackio]", "train.max_steps={STEPS}"]
sys.exit((tiny.resume if resumed else tiny.start)(run, text, *more))
"""


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A run with all trackers that was killed at step 11 and resumed from step 9."""
    for name in TRACKERS:
        pytest.importorskip(name)
    run = tmp_path_factory.mktemp("tracked") / "run"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TRACKIO_"))}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    for how, code in (("start", -signal.SIGKILL), ("resume", 0)):
        line = [sys.executable, "-c", TRAIN, str(run), str(text), how]
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        if how == "start":  # otherwise no step would be written twice
            assert read_metrics(run / "metrics.jsonl")[-1]["step"] == KILLED_AT
    return run


def by_step(run: Path) -> dict[int, dict[str, float]]:
    """The values of metrics.jsonl: the lines of a step together."""
    found: dict[int, dict[str, float]] = {}
    for record in read_metrics(run / "metrics.jsonl"):
        found.setdefault(record.pop("step"), {}).update(record)
    return found


def as_float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def samples(run: Path) -> dict[int, str]:
    """The texts of samples.txt, by step."""
    content = (run / "samples.txt").read_text(encoding="utf-8")
    found = re.findall(r"^=== step (\d+), .*? ===\n(.*?)\n\n(?==== step|\Z)", content, re.M | re.S)
    return {int(step): text for step, text in found}


@pytest.mark.slow
def test_tensorboard_holds_each_step_once(continued: Path) -> None:
    """Steps 10 and 11 were written before the kill and again after it; or a step could be lost."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(continued / "tensorboard"))
    events.Reload()
    lines = by_step(continued)
    tags = events.Tags()["scalars"]
    assert set(tags) == set().union(*lines.values())
    for tag in tags:
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(n, as_float32(line[tag])) for n, line in lines.items() if tag in line]
    texts = {e.step: e.tensor_proto.string_val[0].decode()
             for e in events.Tensors("sample/text_summary")}  # fmt: skip
    assert {n: text.replace("  \n", "\n") for n, text in texts.items()} == samples(continued)


def wandb_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Read the history of an offline file: blocks of 32 KiB with records in LevelDB's log format.

    A record has a checksum (4 bytes), a length (2) and a kind (1): whole, first, middle or last.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, content = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        content += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole or last
            record, content = Record.FromString(content), b""
            if record.WhichOneof("record_type") == "history":
                yield {i.key or i.nested_key[0]: json.loads(i.value_json)
                       for i in record.history.item}  # fmt: skip


@pytest.mark.slow
def test_wandb_holds_each_step_once(continued: Path) -> None:
    """Both processes write a file, which wandb uploads as one run by its ID: a step in both would
    be there twice."""
    files = sorted((continued / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and {file.stem for file in files} == {f"run-{run_id(continued)}"}
    parts = [list(wandb_rows(file)) for file in files]
    assert [row["_step"] for row in parts[0]] == list(range(1, SAVED_AT + 1))
    found = {row["_step"]: row for part in parts for row in part}
    assert len(found) == sum(map(len, parts))
    texts = {n: row.pop("sample") for n, row in found.items() if "sample" in row}
    assert texts == samples(continued)
    times = [row["_timestamp"] for row in found.values()]
    assert times == sorted(set(times))  # of the measurement, not of the checkpoint
    values = {
        n: {name: value for name, value in row.items() if not name.startswith("_")}
        for n, row in found.items()
    }
    assert values == by_step(continued)


@pytest.mark.slow
def test_trackio_holds_each_step_once(continued: Path) -> None:
    """As for TensorBoard."""
    with closing(sqlite3.connect(continued / "trackio/breeze.db")) as database:
        rows = database.execute("SELECT step, metrics, run_id FROM metrics ORDER BY id").fetchall()
        settings = database.execute("SELECT config FROM configs").fetchall()
    assert {row[2] for row in rows} == {run_id(continued)}
    lines, texts = [], {}
    for n, content, _ in rows:
        values = json.loads(content)
        if "sample" in values:
            texts[n] = values["sample"]["_value"]
        else:
            lines.append({"step": n, **values})
    assert lines == read_metrics(continued / "metrics.jsonl")
    assert texts == samples(continued)
    assert len(settings) == 1 and json.loads(settings[0][0])["train"]["max_steps"] == STEPS


@pytest.mark.slow
def test_trackers_do_not_change_the_training(continued: Path, tmp_path: Path, text: Path) -> None:
    """A library that draws from the random numbers of the training."""
    assert start(tmp_path / "alone", text, f"train.max_steps={STEPS}") == 0
    assert measured(continued) == measured(tmp_path / "alone")


# ------------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_library_is_named_before_anything_is_written(
    name: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """ModuleNotFoundError after the text was prepared, in a folder that then holds half a run."""
    monkeypatch.setitem(sys.modules, name, None)
    assert start(tmp_path / "run", text, f"train.loggers=[jsonl,{name}]") == 2
    line = f'error: train.loggers names {name}, which is not installed: pip install -e ".[{name}]"'
    assert capsys.readouterr().err.splitlines()[-1].startswith(line)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_that_name_is_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb writes a folder `wandb` where it is started; Python would import it as a package."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="names wandb, which is not installed"):
        refuse_unavailable(["jsonl", "wandb"])


@pytest.mark.parametrize("key", [None, "short"])
def test_wandb_online_without_login_is_refused(
    key: str | None, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """wandb would ask for a key on the terminal, in the middle of the start."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert start(tmp_path / "run", text, "train.loggers=[wandb]") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and ("API key" in line) and "wandb" in line
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_fails_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk in a tracker's folder would end a training of hours."""
    calls: list[str] = []

    class Full:
        shown_by = "nothing"

        def write(self, step: int, values: Any) -> None:
            calls.append(f"write {step}")
            raise OSError("no space")

    def opened(name: str, *_: Any) -> Any:
        if name == "wandb":
            raise RuntimeError("no\nroom")
        return Full()

    monkeypatch.setattr(training.run_log, "open_tracker", opened)
    with RunLog(tmp_path, 0, ["wandb", "trackio"], {}) as log:
        log.write(1, train_loss=2.0)
        log.write(2, train_loss=1.0)
        log.saved()
    assert calls == ["write 1"]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].split("(")[0].strip() for line in warnings] == [
        "wandb failed", "trackio failed"
    ]  # fmt: skip
    assert "RuntimeError: no room" in warnings[0] and "OSError: no space" in warnings[1]


def test_a_run_keeps_its_id(tmp_path: Path) -> None:
    """A folder that is moved and resumed would become another run in wandb and trackio."""
    (tmp_path / "a").mkdir()
    first = run_id(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert run_id(tmp_path / "b") == first and len(first) == 12


# ------------------------------------------------------------------- the setting


def test_loggers_are_a_list_of_names() -> None:
    """A name without effect, or one that is taken letter by letter."""
    config = load_config("configs/quickstart.yaml", ["train.loggers=[wandb, tensorboard]"])
    assert config.train.loggers == ("wandb", "tensorboard")
    assert load_config("configs/quickstart.yaml").train.loggers == ("jsonl",)
    for wrong in ("wandb", "[]", "[mlflow]", "[wandb, wandb]", "null", "[[wandb]]"):
        with pytest.raises(UserError, match=r"train\.loggers is .*jsonl, tensorboard, wandb"):
            load_config("configs/quickstart.yaml", [f"train.loggers={wrong}"])


def test_no_tracker_is_imported_at_the_top() -> None:
    """Every training would need the library, and wait for it."""
    for path in (ROOT / "training").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                assert not {n.split(".")[0] for n in names if n} & set(TRACKERS), path
