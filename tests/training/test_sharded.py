"""Sharded checkpoints: read exactly as saved by any number of processes, or refused in one line."""

import hashlib
import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks
import tiny
import torch
from ranks import Mutant

from errors import UserError
from inference.trained import open_trained
from scripts import evaluate, export, sample, strip
from storage import remove_torn_files
from training.checkpoint import read
from training.run_folder import find, newest
from training.sharded import INDEX

FSDP = ["train.parallel=fsdp", "train.eval_interval=5", "train.save_interval=5"]


def trained(size: int, run: Path, text: Path, *more: str, resume: bool = False) -> tuple[int, str]:
    """Train in several processes; return the first one's exit code and all that was printed."""
    store, printed = ranks.open_store(), run.with_suffix(".txt")
    words = [*(["--resume"] if resume else []), *tiny.words(run, text, *FSDP, *more)]
    processes = ranks.start(size, ranks.train, words, printed, port=store.port)
    for process in processes:
        process.join(ranks.PATIENCE)
        assert process.exitcode is not None, f"a process hangs: {printed.read_text()[-500:]}"
    return processes[0].exitcode, printed.read_text()


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A run of ten steps by two processes. Tests must not write to it."""
    run = tmp_path_factory.mktemp("divided") / "run"
    assert trained(2, run, text)[0] == 0
    return run


@pytest.fixture
def copy(tmp_path: Path, divided: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(divided, tmp_path / "run"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(open_trained(find(run, "last").path).model.state_dict())


def test_the_name_depends_on_the_content_alone(tmp_path: Path, text: Path, divided: Path) -> None:
    """Equal runs could not be compared: torch writes the keys of a shard in any order."""
    assert tiny.saved(divided) == [n for n in tiny.saved(divided) if n.endswith(".sharded")]
    assert trained(2, tmp_path / "again", text)[0] == 0
    assert tiny.saved(tmp_path / "again") == tiny.saved(divided)


CHANGES = {
    "fsdp of 2": (2, []),
    "fsdp of 1": (1, []),
    "fsdp of 4": (4, []),
    "ddp of 2": (2, ["train.parallel=ddp"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_any_number_of_processes_can_continue(
    text: Path, divided: Path, copy: Path, name: str
) -> None:
    """Parts could go to another process than the one that they belong to, or moments be lost."""
    size, more = CHANGES[name]
    shutil.rmtree(tiny.last(copy))
    assert tiny.step_of(tiny.last(copy).name) == 5
    code, printed = trained(size, copy, text, *more, resume=True)
    assert code == 0 and "step 5 of 10" in printed, printed[-500:]
    if name == "fsdp of 2":
        assert tiny.saved(copy) == tiny.saved(divided)
    assert_close(copy, divided)


@pytest.mark.slow
def test_several_processes_can_continue_a_file(text: Path, run: Path, finished: Path) -> None:
    """A run that was started by one process could not grow."""
    tiny.last(run).unlink()
    code, printed = trained(2, run, text, resume=True)
    assert code == 0 and "step 9 of 10" in printed, printed[-500:]
    assert tiny.last(run).suffix == ".sharded"
    assert_close(run, finished)


def assert_close(run: Path, expected: Path) -> None:
    """Compare the weights of the last steps: sums in another order are rounded otherwise."""
    one, other = weights(run), weights(expected)
    for name, weight in other.items():
        assert (one[name] - weight).norm() <= 1e-4 * weight.norm(), name


def test_commands_open_a_folder_of_shards(
    tmp_path: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was trained by several processes could not be used."""
    folder = str(tiny.last(copy))
    assert sample.main([folder, "--prompt", "the", "--max-tokens", "3"]) == 0
    assert evaluate.main([str(copy)]) == 0
    assert strip.main([folder, "--out", str(tmp_path / "small.safetensors")]) == 0
    assert export.main([folder, "--to", "hf", "--out", str(tmp_path / "exported")]) == 0, (
        capsys.readouterr().err
    )
    small = open_trained(tmp_path / "small.safetensors").model.state_dict()
    for name, weight in weights(copy).items():
        assert torch.equal(weight, small[name]), name


# ------------------------------------------------------------------- damage


def renamed(folder: Path) -> Path:
    """Rename a folder by the hash of its index, so that its name is valid again."""
    digest = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()[:16]
    return folder.rename(folder.with_name(f"{folder.name[:14]}{digest}.sharded"))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def truncated(folder: Path) -> None:
    path = shards(folder)[1]
    path.write_bytes(path.read_bytes()[:-4])


def flipped(folder: Path) -> None:
    path = shards(folder)[0]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def swapped(folder: Path) -> None:
    first, second = shards(folder)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def linked(folder: Path) -> None:
    path = shards(folder)[0]
    path.rename(folder.parent.parent / "elsewhere")
    path.symlink_to(folder.parent.parent / "elsewhere")


def reindexed(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    """Change the index, and make the hash in the name right again."""
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))
    renamed(folder)


def all_swapped(index: dict) -> None:  # type: ignore[type-arg]
    one, other = sorted(index["files"])
    files = index["files"]
    files[one], files[other] = files[other], files[one]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "empty": lambda folder: shards(folder)[0].write_bytes(b""),
    "missing": lambda folder: shards(folder)[1].unlink(),
    "extra": lambda folder: shutil.copy(shards(folder)[0], folder / "shard-9.safetensors"),
    "extra other file": lambda folder: (folder / "note.txt").write_text("hello"),
    "flipped bit": flipped,
    "swapped": swapped,
    "link": linked,
    "no index": lambda folder: (folder / INDEX).unlink(),
    "empty index": lambda folder: (folder / INDEX).write_text(""),
    "index is a folder": lambda folder: [(folder / INDEX).unlink(), (folder / INDEX).mkdir()],
    "index changed": lambda folder: (folder / INDEX).write_text("{}"),
    "index: not an object": lambda f: [(f / INDEX).write_text("[]"), renamed(f)],
    "index: a file less": lambda f: reindexed(f, lambda i: i["files"].popitem()),
    "index: a file elsewhere": lambda f: reindexed(
        f, lambda i: i["files"].update({"../../elsewhere": "00"})
    ),
    "index: hashes are numbers": lambda f: reindexed(
        f, lambda i: i["files"].update(dict.fromkeys(i["files"], 1))
    ),
    "index: hashes swapped": lambda f: reindexed(f, all_swapped),
    "index: another shape": lambda f: reindexed(
        f, lambda i: i["tensors"].update({"norm.weight": ["F32", [31]]})
    ),
    "index: a tensor more": lambda f: reindexed(
        f, lambda i: i["tensors"].update({"more": ["F32", [1]]})
    ),
    "index: a tensor less": lambda f: reindexed(f, lambda i: i["tensors"].pop("norm.weight")),
    "index: a dtype is a list": lambda f: reindexed(
        f, lambda i: i["tensors"].update({"norm.weight": [[], [32]]})
    ),
    "index: a step is negative": lambda f: reindexed(
        f, lambda i: i["metadata"].update({"step": -1})
    ),
    "index: no config": lambda f: reindexed(f, lambda i: i["metadata"].pop("config")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_and_the_checkpoint_before_used(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A damaged model could be used, crash the process, or take the whole run with it."""
    DAMAGES[name](tiny.last(copy))
    damaged = tiny.last(copy)
    with pytest.raises(UserError) as refused:
        read(damaged)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500
    found = newest(copy / "checkpoints")
    assert found is not None and found.step == 5
    assert capsys.readouterr().err.count("skipped: ") == 1


# ------------------------------------------------------------------- kills and full disks


@pytest.mark.parametrize("place", ["index = {", "path = part.with_name("])
def test_a_kill_between_two_files_leaves_nothing_visible(
    tmp_path: Path, text: Path, place: str
) -> None:
    """A folder with half of its shards, or without its index, could look like a checkpoint."""
    run = tmp_path / "run"
    kill = Mutant("training.sharded", "_complete", place,
                  f"__import__('os').kill(__import__('os').getpid(), 9); {place}")  # fmt: skip
    code, _ = _with(kill, run, text)
    assert code == -signal.SIGKILL
    (torn,) = tiny.leftovers(run)
    assert torn.is_dir() and list(torn.iterdir())
    assert newest(run / "checkpoints") is None
    remove_torn_files(run)
    assert tiny.saved(run) == []


def test_a_full_disk_ends_in_one_line(tmp_path: Path, text: Path) -> None:
    """The error of a save in the background could be lost, and training go on without it."""
    code, printed = _with(None, tmp_path / "run", text)
    assert code == 2
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "File too large" in line and "everything that was saved is intact" in line


def _with(mutant: Mutant | None, run: Path, text: Path) -> tuple[int, str]:
    """Train in two processes; the first is changed, or may only write files of 20 KB."""
    store, printed = ranks.open_store(), run.with_suffix(".txt")
    processes = ranks.start(
        2, changed, tiny.words(run, text, *FSDP), printed, mutant, port=store.port
    )
    processes[0].join(ranks.PATIENCE)
    processes[1].join(ranks.PATIENCE)
    assert processes[1].exitcode not in (None, 0), "the other process hangs"
    return processes[0].exitcode, printed.read_text()


def changed(words: list[str], printed: Path, mutant: Mutant | None) -> None:
    """Train in this process, after a change to it."""
    if ranks.is_first():
        if mutant is not None:
            mutant.apply()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    ranks.train(words, printed)
