"""What the user can do wrong: one line that names it and the remedy, exit code 2, nothing torn.

`PYTHONPATH=. python tests/test_bad_input.py` prints what is said about each.
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

Case = Callable[[Path, Path], int]  # (a folder of one's own, the text) -> exit code


def given(*more: str) -> Case:
    """A tiny run with overrides."""
    return lambda folder, text: tiny.start(folder / "run", text, *more)


def config(content: str | bytes) -> Case:
    """A config file with this in it."""

    def case(folder: Path, text: Path) -> int:
        path = folder / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return train.main([str(path), f"run_dir={folder / 'run'}"])

    return case


def of_text(content: bytes | None, *more: str, name: str = "t.txt") -> Case:
    """A tiny run on a text file with this in it; None: no such file."""

    def case(folder: Path, text: Path) -> int:
        path = folder / name
        if content is not None:
            path.write_bytes(content)
        return tiny.start(folder / "run", path, *more)

    return case


def of_place(make: Callable[[Path], Any]) -> Case:
    """A tiny run on something else than a file."""

    def case(folder: Path, text: Path) -> int:
        make(folder / "place")
        return tiny.start(folder / "run", folder / "place")

    return case


def folder_without_text(path: Path) -> None:
    path.mkdir()
    (path / "picture.png").write_bytes(b"\x89PNG")


def asked(*more: str) -> Case:
    """scripts.sample of a trained run."""
    return lambda folder, text: sample.main([str(folder / "run"), "--prompt", "a", *more])


def scored(*more: str) -> Case:
    return lambda folder, text: evaluate.main([str(folder / "run"), *more])


def damaged(damage: Callable[[Path], Any], every: bool = True) -> Case:
    """scripts.sample of a run whose checkpoints, or whose last, were damaged."""

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
    """--resume of a trained run with other settings."""
    return lambda folder, text: tiny.resume(folder / "run", text, *more)


def another_text(folder: Path, text: Path) -> int:
    """The end alone differs: the tokenizer, of the training part, stays the same."""
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
    "unknown key": (given("train.learning_rate=1"), "train.learning_rate is unknown"),
    "misspelt key": (given("model.slidng_window=8"), "did you mean model.sliding_window"),
    "duplicate key": (config("seed: 1\nseed: 2\n"), "line 2: seed is given twice"),
    "wrong type": (given("train.max_steps=many"), 'max_steps is "many", a whole number'),
    "a float for a whole number": (given("train.max_steps=1.5"), "train.max_steps is 1.5"),
    "heads that do not divide": (given("model.n_kv_heads=3"), "n_kv_heads"),
    "sliding_window 0": (given("model.sliding_window=0"), "model.sliding_window is 0"),
    "warm-up too long": (given("train.warmup_steps=10"), "must end before train.max_steps"),
    "a tab in YAML": (config("model:\n\tdim: 3\n"), "line 2: not YAML"),
    "no such config": (lambda f, t: train.main([str(f / "x.yaml")]), "no such file"),
    "config of bytes": (config(b"\xff\xfe\x00"), "not UTF-8 text"),
    "empty corpus": (of_text(b""), "holds no text"),
    "corpus below a window": (
        of_text(b"To be, or not to be."), "data.seq_len is 32: one sequence needs 33 tokens"
    ),
    "corpus too short to split": (of_text(b"ab"), "leaves nothing for val"),
    "one document, split document": (given("data.split=document"), "data.split=tail holds out"),
    "no such text": (of_text(None), "data.path: .*t.txt does not exist"),
    "no path": (given("data.path=null"), "data.path is missing: give a file"),
    "not UTF-8": (of_text(b"caf\xe9 " * 99), r"is not UTF-8 \(byte 3\)"),
    "folder without text": (of_place(folder_without_text), r"is an image \(PNG\), not text"),
    "a pipe for a text": (of_place(os.mkfifo), "is not a regular file"),
    "broken table": (
        of_text(b'{"text": "a"\n', name="t.jsonl"), r"not JSON \(1 of 1 rows"
    ),
    "vocabulary too small": (given("tokenizer.vocab_size=99"), "tokenizer.vocab_size is 99"),
    "run_dir is a file": (file_as_folder, "run_dir="),
    "a run is there": (given(), "already holds a run"),
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
    "temperature -1": (asked("--temperature", "-1"), "--temperature is -1"),
    "temperature nan": (asked("--temperature", "nan"), "--temperature is nan"),
    "top_p 0": (asked("--top-p", "0"), "--top-p is 0"),
    "top_p 1.5": (asked("--top-p", "1.5"), "--top-p is 1.5"),
    "top_k 0": (asked("--top-k", "0"), "--top-k is 0"),
    "max-tokens 0": (asked("--max-tokens", "0"), "--max-tokens"),
    "seed -1": (asked("--seed", "-1"), "--seed 0 or more"),
    "prompt twice": (asked("--prompt-file", "x"), "not both"),
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


def refused(said: str) -> str:
    """The one line of refusal; anything before it must be a note or progress."""
    assert "Traceback" not in said, said
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], said
    before = ("note: ", "skipped: ", "training the tokenizer", "tokenizing", "tokens: ", "")
    assert all(line.startswith(before) for line in lines), said
    return errors[0]


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(
    name: str, tmp_path: Path, finished: Path, text: Path, cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A traceback, which helps nobody but us; a wrong run that starts; a file left in halves."""
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


def test_all_mistakes_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mistakes told one by one take as many starts as there are mistakes."""
    words = ["train.lr=-1", "model.dims=3", "data.seq_len=x"]
    assert train.main([tiny.QUICKSTART, *words, f"run_dir={tmp_path / 'run'}"]) == 2
    line = refused(capsys.readouterr().err)
    assert "3 errors" in line and all(w.split("=")[0] in line for w in words)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is refused elsewhere")
def test_a_device_that_is_not_there(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torch's own answer is a traceback of 20 lines."""
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
    """A corpus that cannot be fetched: it is said what to do, and nothing is left."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("BREEZE_CACHE", str(tmp_path / "cache"))
    run_dir = f"run_dir={tmp_path / 'run'}"
    assert train.main([tiny.QUICKSTART, "data.source=shakespeare", run_dir]) == 2
    said = capsys.readouterr().err.replace("downloading the", "note: downloading the")
    line = refused(said)
    assert "Check the network" in line and "data.source=files data.path=FILE" in line
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte: one that is really full answers in its own ways."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_really_full_disk(
    small_disk: Path, text: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends in a line, what was saved is valid, and with more space it goes on to the same
    bytes as if nothing had been."""
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
    """The same for a disk that breaks at the second checkpoint, wherever one cannot mount."""
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
    monkeypatch.setenv("BREEZE_CACHE", str(tmp_path / "cache"))
    assert not leftovers(run)
    assert tiny.resume(run, text) == 0
    assert last(run).name == last(finished).name


# ------------------------------------------------------------------- strange but allowed


def test_a_prompt_of_broken_bytes_in_the_config(tmp_path: Path, text: Path) -> None:
    """It comes back from the shell as a lone surrogate, which no file in UTF-8 can hold."""
    assert tiny.start(tmp_path / "run", text, "sample.prompt=caf\udce9", "train.max_steps=4") == 0
    assert "caf\ufffd" in (tmp_path / "run/samples.txt").read_text(encoding="utf-8")
    assert tiny.resume(tmp_path / "run", text, "sample.prompt=caf\udce9", "train.max_steps=4") == 0


def test_what_changes_without_harm_is_noted(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting or a seed that changes in silence: nobody knows later how the model was made."""
    assert tiny.resume(run, text, "seed=3", "train.lr=0.01", "train.max_steps=11") == 0
    said = capsys.readouterr().err
    assert "note: seed was 0 and is now 3" in said
    assert "note: train.lr was 0.02 and is now 0.01" in said
    assert tiny.step_of(last(run).name) == 11


def test_a_moved_text_is_the_same_text(run: Path, text: Path, tmp_path: Path) -> None:
    """The content is compared, not the place."""
    moved = tmp_path / "elsewhere" / text.name
    moved.parent.mkdir()
    shutil.copy(text, moved)
    before = saved(run)
    assert tiny.resume(run, moved) == 0 and saved(run) == before


def test_resume_goes_round_the_damage_and_heals_it(
    run: Path, finished: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last checkpoint is damaged: named, passed over, and in the end made again."""
    cut(last(run))
    assert tiny.resume(run, text) == 0
    assert f"skipped: {last(run)} is damaged" in capsys.readouterr().err
    assert last(run).read_bytes() == last(finished).read_bytes()


def table() -> None:
    """Print what is said about each mistake."""
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
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                case(folder, text)
            line = said.getvalue().splitlines()[-1]
            print(f"{kind} -> {line.replace(str(folder), 'DIR').replace(name, 'DIR')}")


if __name__ == "__main__":
    sys.exit(table())
