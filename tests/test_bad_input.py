"""Errors of the user: one line with cause and remedy, exit code 2, no torn file.

`PYTHONPATH=. python tests/test_bad_input.py` prints the error of each case.
"""

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import last, leftovers, saved, words

import train
from scripts import evaluate, sample

Case = Callable[[Path, Path], int]  # (an empty folder, the text) -> exit code


def started(*more: str) -> Case:
    """A tiny run with overrides."""
    return lambda folder, text: tiny.start(folder / "run", text, *more)


def config(content: str | bytes) -> Case:
    """A run from a config file with this content."""

    def case(folder: Path, text: Path) -> int:
        path = folder / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return train.main([str(path), f"run_dir={folder / 'run'}"])

    return case


def on_text(content: bytes | None, *more: str, name: str = "t.txt") -> Case:
    """A tiny run on a text file with this content; None: there is no file."""

    def case(folder: Path, text: Path) -> int:
        path = folder / name
        if content is not None:
            path.write_bytes(content)
        return tiny.start(folder / "run", path, *more)

    return case


def on_place(make: Callable[[Path], Any]) -> Case:
    """A tiny run whose data.path is something else than a file."""

    def case(folder: Path, text: Path) -> int:
        make(folder / "place")
        return tiny.start(folder / "run", folder / "place")

    return case


def folder_without_text(path: Path) -> None:
    path.mkdir()
    (path / "picture.png").write_bytes(b"\x89PNG")


def sampled(*more: str) -> Case:
    """`scripts.sample` on a trained run."""
    return lambda folder, text: sample.main([str(folder / "run"), "--prompt", "a", *more])


def scored(*more: str) -> Case:
    return lambda folder, text: evaluate.main([str(folder / "run"), *more])


def damaged(damage: Callable[[Path], Any], every: bool = True) -> Case:
    """`scripts.sample` on a run whose checkpoints, or whose last one, were damaged."""

    def case(folder: Path, text: Path) -> int:
        names = saved(folder / "run") if every else saved(folder / "run")[-1:]
        for name in names:
            damage(folder / "run/checkpoints" / name)
        target = folder / "run" if every else folder / "run/checkpoints" / names[0]
        return sample.main([str(target), "--prompt", "a"])

    return case


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def changed(*more: str) -> Case:
    """`--resume` of a trained run with other settings."""
    return lambda folder, text: tiny.resume(folder / "run", text, *more)


def another_text(folder: Path, text: Path) -> int:
    """Only the end differs: the tokenizer, trained on the training part, stays the same."""
    path = folder / "other.txt"
    path.write_text(text.read_text()[:-40] + "the the the the the the the the the the ")
    return tiny.resume(folder / "run", path)


def another_tokenizer(folder: Path, text: Path) -> int:
    """The same settings on a text with other letters."""
    path = folder / "other.txt"
    path.write_text(text.read_text().replace("q", "ж"))
    return tiny.resume(folder / "run", path)


def all_damaged_resume(folder: Path, text: Path) -> int:
    for name in saved(folder / "run"):
        cut(folder / "run/checkpoints" / name)
    return tiny.resume(folder / "run", text)


def file_as_folder(folder: Path, text: Path) -> int:
    (folder / "run").rename(folder / "moved")
    (folder / "run").write_text("a file")
    return tiny.start(folder / "run", text)


def renamed_architecture(folder: Path, text: Path) -> int:
    """A checkpoint whose config says another number of layers, under a name of the user's own."""
    path = last(folder / "run")
    path.write_bytes(path.read_bytes().replace(b'n_layers\\":2', b'n_layers\\":3'))
    return sample.main([str(path.rename(folder / "own.safetensors")), "--prompt", "a"])


def foreign(folder: Path, text: Path) -> int:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(3)}, folder / "llama.safetensors")
    return sample.main([str(folder / "llama.safetensors"), "--prompt", "a"])


def prompt_file(content: bytes) -> Case:
    def case(folder: Path, text: Path) -> int:
        (folder / "p.txt").write_bytes(content)
        return sample.main([str(folder / "run"), "--prompt-file", str(folder / "p.txt")])

    return case


CASES: dict[str, tuple[Case, str]] = {
    "unknown key": (started("train.learning_rate=1"), "train.learning_rate is unknown"),
    "misspelt key": (started("model.slidng_window=8"), "did you mean model.sliding_window"),
    "duplicate key": (config("seed: 1\nseed: 2\n"), "line 2: seed is given twice"),
    "wrong type": (started("train.max_steps=many"), 'max_steps is "many", a whole number'),
    "a float for a whole number": (started("train.max_steps=1.5"), "train.max_steps is 1.5"),
    "heads that do not divide": (started("model.n_kv_heads=3"), "n_kv_heads"),
    "sliding_window 0": (started("model.sliding_window=0"), "model.sliding_window is 0"),
    "warm-up too long": (started("train.warmup_steps=10"), "must end before train.max_steps"),
    "a tab in YAML": (config("model:\n\tdim: 3\n"), "line 2: not YAML"),
    "no such config": (lambda f, t: train.main([str(f / "x.yaml")]), "no such file"),
    "config of bytes": (config(b"\xff\xfe\x00"), "not UTF-8 text"),
    "empty corpus": (on_text(b""), "holds no text"),
    "corpus shorter than a sequence": (
        on_text(b"To be, or not to be."), "data.seq_len is 32: one sequence needs 33 tokens"
    ),
    "corpus too short to split": (on_text(b"ab"), "leaves nothing for val"),
    "no such text": (on_text(None), "data.path: .*t.txt does not exist"),
    "no path": (started("data.path=null"), "data.path is missing: give a file"),
    "not UTF-8": (on_text(b"caf\xe9 " * 99), r"is not UTF-8 \(byte 3\)"),
    "folder without text": (on_place(folder_without_text), r"is an image \(PNG\), not text"),
    "a pipe for a text": (on_place(os.mkfifo), "is not a regular file"),
    "broken table": (
        on_text(b'{"text": "a"\n', name="t.jsonl"), r"not JSON \(1 of 1 rows"
    ),
    "vocabulary too small": (started("tokenizer.vocab_size=99"), "tokenizer.vocab_size is 99"),
    "run_dir is a file": (file_as_folder, "run_dir="),
    "a run is there": (started(), "already holds a run"),
    "no such run": (lambda f, t: sample.main([str(f / "nowhere")]), "there is no run"),
    "run without checkpoints": (lambda f, t: sample.main([str(f)]), "has no checkpoints yet"),
    "checkpoint missing": (
        lambda f, t: sample.main([str(f / "step-00000001-0123456789abcdef.safetensors")]),
        "there is no run",
    ),
    "checkpoint truncated": (damaged(cut, every=False), r"damaged \(truncated or altered\)"),
    "checkpoint with a flipped bit": (damaged(flip, every=False), "damaged"),
    "checkpoint of zero bytes": (damaged(lambda p: p.write_bytes(b""), every=False), "damaged"),
    "all checkpoints damaged": (damaged(cut), "none of the 2 checkpoints"),
    "checkpoint of another architecture": (renamed_architecture, "another architecture"),
    "not a checkpoint": (lambda f, t: sample.main([str(t)]), "is not a checkpoint"),
    "another program's safetensors": (foreign, "not a checkpoint of Breeze"),
    "resume, all damaged": (all_damaged_resume, "restore one, or remove the run's folder"),
    "resume, other model": (changed("model.hidden_dim=96"), "hidden_dim was 64 and is now 96"),
    "resume, other tokenizer setting": (changed("tokenizer.vocab_size=500"), "was 400 and is now"),
    "resume, other tokenizer": (another_tokenizer, "the tokenizer is not the one"),
    "resume, other data": (another_text, "the text is not the one it was trained on"),
    "resume, other optimizer": (changed("train.optimizer=adamw"), "optimizer was muon and is now"),
    "temperature -1": (sampled("--temperature", "-1"), "--temperature is -1"),
    "temperature nan": (sampled("--temperature", "nan"), "--temperature is nan"),
    "top_p 0": (sampled("--top-p", "0"), "--top-p is 0"),
    "top_p 1.5": (sampled("--top-p", "1.5"), "--top-p is 1.5"),
    "top_k 0": (sampled("--top-k", "0"), "--top-k is 0"),
    "max-tokens 0": (sampled("--max-tokens", "0"), "--max-tokens"),
    "seed -1": (sampled("--seed", "-1"), "--seed 0 or more"),
    "prompt twice": (sampled("--prompt-file", "x"), "not both"),
    "prompt file not UTF-8": (prompt_file(b"ab\xff"), r"is not UTF-8 \(byte 2\)"),
    "window 0": (scored("--window", "0"), "--window 0"),
    "window of letters": (scored("--window", "wide"), "--window wide"),
    "seq-len 0": (scored("--seq-len", "0"), "--seq-len is 0"),
    "score of no file": (scored("--file", "/nowhere.txt"), "--file: /nowhere.txt does not exist"),
}  # fmt: skip

NEEDS_RUN = {name for name, (case, _) in CASES.items() if name.startswith((
    "checkpoint", "all checkp", "resume", "temp", "top", "max-", "seed", "prompt", "window",
    "score", "seq-len", "run_dir", "a run is",
))} - {"checkpoint missing"}  # fmt: skip


def refused(printed: str) -> str:
    """Return the line of the error; only notes and progress may stand before it."""
    assert "Traceback" not in printed, printed
    lines = printed.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], printed
    before = ("note: ", "skipped: ", "training the tokenizer", "tokenizing", "tokens: ", "")
    assert all(line.startswith(before) for line in lines), printed
    return errors[0]


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(
    name: str, tmp_path: Path, finished: Path, text: Path, cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A traceback would not help the user; a wrong run could start; a file could be left torn."""
    case, expected = CASES[name]
    if name in NEEDS_RUN:
        shutil.copytree(finished, tmp_path / "run")
    before = set((tmp_path / "run").rglob("*"))
    assert case(tmp_path, text) == 2
    line = refused(capsys.readouterr().err)
    assert re.search(expected, line), line
    assert not leftovers(tmp_path, cache)
    new = {path.suffix for path in set((tmp_path / "run").rglob("*")) - before}
    assert ".safetensors" not in new


def test_all_errors_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one error at a time, a user would need as many starts as there are errors."""
    words = ["train.lr=-1", "model.dims=3", "data.seq_len=x"]
    assert train.main([tiny.QUICKSTART, *words, f"run_dir={tmp_path / 'run'}"]) == 2
    line = refused(capsys.readouterr().err)
    assert "3 errors" in line and all(w.split("=")[0] in line for w in words)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_does_not_exist(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch would answer with a traceback of 20 lines."""
    assert tiny.start(tmp_path / "run", text, "train.device=cuda") == 2
    assert "train.device is cuda" in refused(capsys.readouterr().err)


def test_no_permission(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text that may not be read."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "t.txt"
    path.write_text("x" * 1000)
    path.chmod(0)
    assert tiny.start(tmp_path / "run", path) == 2
    assert "may not be read" in refused(capsys.readouterr().err)


def test_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a corpus cannot be downloaded, the error says what to do, and no file is left."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("BREEZE_CACHE", str(tiny.own_cache(tmp_path)))
    run_dir = f"run_dir={tmp_path / 'run'}"
    assert train.main([tiny.QUICKSTART, "data.source=shakespeare", run_dir]) == 2
    printed = capsys.readouterr().err.replace("downloading the", "note: downloading the")
    line = refused(printed)
    assert "Check the network" in line and "data.source=files data.path=FILE" in line
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    # Kernels may be built, and the empty file of a lock stays.
    assert [p for p in left if p.parent.name != "native" and p.name != ".lock"] == []


# ------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte, which really becomes full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(
    small_disk: Path, text: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends in one line and the saved checkpoint is valid. With more space, a resumed run
    ends with the same bytes as an uninterrupted one."""
    size = last(finished).stat().st_size
    (small_disk / "ballast").write_bytes(bytes(2**20 - size * 3 // 2))
    run = small_disk / "run"
    assert tiny.start(run, text) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "No space left on device" in errors[0]
    assert [tiny.step_of(name) for name in saved(run)] == [3] and not leftovers(run)
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert tiny.resume(run, text) == 0
    assert last(run).name == last(finished).name


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_disk_refuses(
    tmp_path: Path, text: Path, finished: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], call: str, number: int,
) -> None:  # fmt: skip
    """The same for errors of the disk at the second checkpoint, on machines without `mount`."""
    original = getattr(os, call)

    def refuse(*arguments: Any) -> Any:
        file = f"/proc/self/fd/{arguments[0]}"
        at_save = call == "replace" or "step" in Path(file).readlink().name
        if len(saved(run)) == 1 and at_save:
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    run = tmp_path / "run"
    monkeypatch.setattr(os, call, refuse)
    assert tiny.start(run, text) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and os.strerror(number) in errors[0]
    monkeypatch.undo()
    assert not leftovers(run)
    if number == errno.ENOSPC:  # the files that are left do not depend on the number
        assert tiny.resume(run, text) == 0
        assert last(run).name == last(finished).name


# ------------------------------------------------------------------- unusual but allowed


def test_a_prompt_of_broken_bytes_in_the_config(tmp_path: Path, text: Path) -> None:
    """The shell passes such a prompt as a lone surrogate, which a UTF-8 file cannot hold."""
    assert tiny.start(tmp_path / "run", text, "sample.prompt=caf\udce9", "train.max_steps=4") == 0
    assert "caf\ufffd" in (tmp_path / "run/samples.txt").read_text(encoding="utf-8")
    assert tiny.resume(tmp_path / "run", text, "sample.prompt=caf\udce9", "train.max_steps=4") == 0


def test_allowed_changes_are_noted(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting or seed could change without a note: the model could not be reproduced."""
    assert tiny.resume(run, text, "seed=3", "train.lr=0.01", "train.max_steps=11") == 0
    printed = capsys.readouterr().err
    assert "note: seed was 0 and is now 3" in printed
    assert "note: train.lr was 0.02 and is now 0.01" in printed
    assert tiny.step_of(last(run).name) == 11


def test_a_moved_text_is_the_same_text(run: Path, text: Path, tmp_path: Path) -> None:
    """The content of the text is compared, not its path."""
    moved = tmp_path / "elsewhere" / text.name
    moved.parent.mkdir()
    shutil.copy(text, moved)
    before = saved(run)
    assert tiny.resume(run, moved) == 0 and saved(run) == before


def test_resume_replaces_a_damaged_checkpoint(
    run: Path, finished: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged last checkpoint is reported, skipped, and written again by the resumed run."""
    cut(last(run))
    assert tiny.resume(run, text) == 0
    assert f"skipped: {last(run)} is damaged" in capsys.readouterr().err
    assert last(run).read_bytes() == last(finished).read_bytes()


def table() -> None:
    """Print the error of each case."""
    import contextlib
    import io
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        os.environ["BREEZE_CACHE"] = str(base / "cache")
        text, finished = base / "text.txt", base / "finished"
        text.write_text(tiny.english(20_000))
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            train.main(words(finished, text))
        for number, (kind, (case, _)) in enumerate(CASES.items()):
            folder = base / f"case-{number}"
            folder.mkdir()
            if kind in NEEDS_RUN:
                shutil.copytree(finished, folder / "run")
            printed = io.StringIO()
            with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
                case(folder, text)
            line = printed.getvalue().splitlines()[-1]
            print(f"{kind} -> {line.replace(str(folder), 'DIR').replace(name, 'DIR')}")


if __name__ == "__main__":
    sys.exit(table())
