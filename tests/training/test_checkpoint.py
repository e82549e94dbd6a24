"""Checkpoints: whole and true, or refused in a line; never a crash, never a hang."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from errors import UserError
from inference.trained import open_trained
from scripts import sample
from training.checkpoint import Checkpoint, find, newest, prune, read, save

ABOUT = {"config": {"seed": 1}, "data_hash": "00"}
WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b.weight": torch.tensor([1.5, -0.0])}
MOMENTS = {"a.weight.exp_avg": torch.ones(3, 4), "b.weight.exp_avg": torch.zeros(2)}
SHAPES = {"a.weight": (3, 4), "b.weight": (2,)}


def put(folder: Path, step: int, **about: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return save(folder, step, weights=WEIGHTS, moments=MOMENTS, tokenizer=b"pieces",
                metadata=ABOUT | about)  # fmt: skip


def renamed(path: Path, step: int | None = None) -> Path:
    """Give a file the name that its content asks for: its hash is right again."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    number = path.name.split("-")[1] if step is None else f"{step:08}"
    return path.rename(path.with_name(f"step-{number}-{digest}.safetensors"))


# ------------------------------------------------------------------- there and back


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    """A bit of weight, moment, tokenizer or number that does not come back."""
    checkpoint = read(put(tmp_path, 7, val_loss=1.25, val_step=7))
    assert checkpoint.step == 7 and checkpoint.metadata["val_loss"] == 1.25
    assert checkpoint.metadata["config"] == {"seed": 1}
    assert checkpoint.tokenizer() == b"pieces"
    for name, tensor in checkpoint.weights(SHAPES).items():
        assert tensor.numpy().tobytes() == WEIGHTS[name].numpy().tobytes()  # -0.0 as well
    moments = checkpoint.moments(SHAPES)
    assert moments.keys() == MOMENTS.keys()
    assert all(torch.equal(moments[name], MOMENTS[name]) for name in MOMENTS)


def test_the_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    """Equal runs could not be compared if the time, the folder or an order were in the file."""
    a = put(tmp_path / "one", 3, val_loss=1.0, val_step=3)
    turned = dict(reversed(WEIGHTS.items()))
    (tmp_path / "two").mkdir()
    b = save(tmp_path / "two", 3, weights=turned, moments=dict(reversed(MOMENTS.items())),
             tokenizer=b"pieces", metadata={"val_step": 3, "val_loss": 1.0, **ABOUT})  # fmt: skip
    assert a.name == b.name and a.read_bytes() == b.read_bytes()
    assert put(tmp_path / "one", 4).name != a.name


def test_any_safetensors_reader_can_open_it(tmp_path: Path) -> None:
    """Weights that only we can read are lost with us."""
    path = put(tmp_path, 1)
    assert torch.equal(safetensors.torch.load_file(path)["a.weight"], WEIGHTS["a.weight"])


def test_weights_that_share_memory_with_none(tmp_path: Path) -> None:
    """A transposed view must be stored as it reads, not as it lies in memory."""
    weights = {"a.weight": torch.arange(12.0).reshape(4, 3).T}
    path = save(tmp_path, 1, weights=weights, moments={}, tokenizer=b"x", metadata=ABOUT)
    assert torch.equal(read(path).weights({"a.weight": (3, 4)})["a.weight"], weights["a.weight"])


# ------------------------------------------------------------------- damage


def test_truncated_anywhere(tmp_path: Path) -> None:
    """A copy that was broken off, at any place."""
    path = put(tmp_path, 1)
    content = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"is damaged \(truncated or altered\)"):
            read(path)


def test_a_flipped_bit_anywhere(tmp_path: Path) -> None:
    """A disk that lies: without the hash, a weight with a flipped exponent is simply used."""
    path = put(tmp_path, 1)
    content = path.read_bytes()
    for place in {*range(9), *range(9, len(content), 37), len(content) - 1}:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="is damaged"):
            read(path)


def opened(path: Path) -> None:
    """Use all of a checkpoint, as resuming and sampling do."""
    checkpoint = read(path)
    checkpoint.tokenizer()
    checkpoint.weights(SHAPES)
    checkpoint.moments(SHAPES)


def test_damage_with_a_right_hash_reaches_the_parser_and_goes_no_further(tmp_path: Path) -> None:
    """Whoever makes a file can make its hash too: every byte, changed, is accepted as other content
    or refused by `UserError`; nothing else may come out."""
    content = put(tmp_path, 1).read_bytes()
    refused = 0
    header = 8 + int.from_bytes(content[:8], "little")
    for place in [*range(header), *range(header, len(content), 16)]:
        for flip in (0x01, 0x80):
            bad = tmp_path / "step-00000001-x.safetensors"
            bad.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
            bad = renamed(bad)
            try:
                opened(bad)
            except UserError:
                refused += 1
            bad.unlink()
    assert refused > header  # most of the header's bytes matter
    for size in (0, 1, 8, 9, header - 1, header, header + 1, len(content) - 1):
        bad = tmp_path / "step-00000001-x.safetensors"
        bad.write_bytes(content[:size])
        bad = renamed(bad)
        with pytest.raises(UserError):
            opened(bad)
        bad.unlink()


def header_of(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def about(**changes: Any) -> dict[str, str]:
    return {"breeze": json.dumps({"format": 1, "step": 1, **ABOUT} | changes)}


TOKENIZER = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
FOREIGN = {
    "zero bytes": b"",
    "text": b"It was a dark and stormy night. " * 9,
    "a length beyond the file": (10**9).to_bytes(8, "little") + b"{}",
    "a length of 2^64 - 1": b"\xff" * 8 + b"{}",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "a header that is a list": header_of([]),
    "a header nested 100,000 deep": header_of(b"[" * 100_000 + b"]" * 100_000),
    "a header that is no UTF-8": header_of(b"\xff\xff"),
    "another program's tensors": safetensors.torch.save({"x": torch.ones(3)}, {"format": "pt"}),
    "no metadata": safetensors.torch.save({"x": torch.ones(3)}),
    "metadata that is text": header_of({"__metadata__": "x"}),
    "no tokenizer": header_of({"__metadata__": about()}),
    "a tokenizer of floats": header_of(
        {"__metadata__": about(), "tokenizer": TOKENIZER | {"dtype": "BF16"}}
    ),
    "a tensor that is a number": header_of({"__metadata__": about(), "tokenizer": 3}),
    "another format": header_of({"__metadata__": about(format=2), "tokenizer": TOKENIZER}),
    "a step that is text": header_of({"__metadata__": about(step="1"), "tokenizer": TOKENIZER}),
    "a step below zero": header_of({"__metadata__": about(step=-1), "tokenizer": TOKENIZER}),
    "a config that is a list": header_of(
        {"__metadata__": about(config=[]), "tokenizer": TOKENIZER}
    ),
    "no data hash": header_of({"__metadata__": about(data_hash=None), "tokenizer": TOKENIZER}),
    "a best loss that is text": header_of(
        {"__metadata__": about(best_loss="low"), "tokenizer": TOKENIZER}
    ),
    "metadata nested 100,000 deep": header_of(
        {"__metadata__": {"breeze": "[" * 100_000 + "]" * 100_000}, "tokenizer": TOKENIZER}
    ),
    "a shape of text": header_of(
        {"__metadata__": about(), "tokenizer": TOKENIZER | {"shape": ["9"]}}
    ),
    "a tensor of 10^18 numbers": header_of(
        {
            "__metadata__": about(),
            "tokenizer": TOKENIZER,
            "a.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]},
        },
        b"0000",
    ),
    "tensors that overlap": header_of(
        {
            "__metadata__": about(),
            "tokenizer": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "x": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
        },
        b"000000",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("named", [True, False], ids=["with hash", "without"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, kind: str, named: bool) -> None:
    """A file by mistake, or by malice: no traceback, no code run, no memory of its choosing."""
    path = tmp_path / "step-00000001-x.safetensors"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(UserError) as refusal:
        opened(renamed(path) if named else path)
    assert str(path.parent) in str(refusal.value)


def test_foreign_files_are_refused_without_asserts(tmp_path: Path) -> None:
    """`python -O` drops every assert: a header that is checked by one would not be checked."""
    for number, content in enumerate(FOREIGN.values()):
        (tmp_path / f"{number:02}").write_bytes(content)
    code = (
        "import pathlib, sys, errors\n"
        "from training.checkpoint import read\n"
        "assert False\n"  # shows that asserts are off
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: read(path).tokenizer()\n"
        "    except errors.UserError: continue\n"
        "    print(path.name)\n"
    )
    line = [sys.executable, "-O", "-c", code, str(tmp_path)]
    done = subprocess.run(line, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr


def test_folders_and_pipes(tmp_path: Path) -> None:
    """Opening a FIFO waits for ever for a writer; reading a folder is IsADirectoryError."""
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("folder", "pipe"):
        with pytest.raises(UserError, match="not a regular file"):
            read(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="there is no checkpoint"):
        read(tmp_path / "missing")


def test_a_renamed_file_is_read_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of the user's own is allowed, but takes the protection away: it is said."""
    path = put(tmp_path, 5).rename(tmp_path / "my best.safetensors")
    assert read(path).step == 5
    assert "note: my best.safetensors has no hash" in capsys.readouterr().err


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """Change a real checkpoint's metadata or tensors, and make its hash right again."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["breeze"])
    change(metadata, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"breeze": json.dumps(metadata)}))
    return renamed(path)


OTHERS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "wider": (lambda m, t: m["config"]["model"].update(dim=64, head_dim=32), "another architect"),
    "deeper": (lambda m, t: m["config"]["model"].update(n_layers=3), "lacks layers.2"),
    "shallower": (lambda m, t: m["config"]["model"].update(n_layers=1), "has layers.1"),
    "impossible": (lambda m, t: m["config"]["model"].update(n_kv_heads=3), "n_kv_heads|n_heads"),
    "unknown key": (lambda m, t: m["config"]["model"].update(rooms=3), "model.rooms is unknown"),
    "a section of text": (lambda m, t: m["config"].update(model="x"), "model is"),
    "not finite": (lambda m, t: t["norm.weight"].fill_(float("nan")), "not finite"),
    "half": (lambda m, t: t.update({"norm.weight": t["norm.weight"].half()}), "another architect"),
    "other tokenizer": (lambda m, t: t.update(tokenizer=t["tokenizer"][:-9]), "tokenizer"),
    "no tokenizer bytes": (lambda m, t: t.update(tokenizer=t["tokenizer"][:0]), "tokenizer"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_architecture_is_refused(
    run: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config that does not fit its weights: shapes are compared before torch meets them."""
    change, expected = OTHERS[kind]
    path = edited(
        run / "checkpoints" / max(p.name for p in (run / "checkpoints").iterdir()), change
    )
    with pytest.raises(UserError, match=expected):
        open_trained(path)
    assert sample.main([str(path), "--prompt", "a", "--max-tokens", "2"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if not line.startswith("note:")]) == 1


# ------------------------------------------------------------------- which one


def test_newest_passes_over_the_damaged_and_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last file is the likeliest to be damaged, and the one before it the way out."""
    paths = [put(tmp_path, step) for step in (1, 2, 3)]
    assert newest(tmp_path).path == paths[2]  # type: ignore[union-attr]
    assert capsys.readouterr().err == ""
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    assert newest(tmp_path).step == 2  # type: ignore[union-attr]
    said = capsys.readouterr().err
    assert said.startswith(f"skipped: {paths[2]} is damaged") and str(paths[1]) not in said


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    """10 comes after 9, whatever their hashes."""
    for step in (9, 10, 100, 99):
        put(tmp_path, step)
    assert newest(tmp_path).step == 100  # type: ignore[union-attr]


def test_none_valid_is_an_error_and_none_at_all_is_none(tmp_path: Path) -> None:
    """A run must not start from zero over the remains of another."""
    (tmp_path / "checkpoints").mkdir()
    assert newest(tmp_path / "checkpoints") is None
    with pytest.raises(UserError, match="has no checkpoints yet"):
        find(tmp_path)
    path = put(tmp_path / "checkpoints", 1)
    (path.parent / ".step-00000002-aa.safetensors.00000000.part").write_bytes(b"torn")
    (path.parent / "notes.txt").write_text("mine")
    assert find(tmp_path).step == 1
    assert find(path).step == 1
    path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        find(tmp_path)
    with pytest.raises(UserError, match="there is no run"):
        find(tmp_path / "nowhere")


def test_best_last_or_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RUN opened at another step than the one that was asked for."""
    folder = tmp_path / "checkpoints"
    losses = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 1.0, 5: 2.0}
    paths = {step: put(folder, step, val_loss=loss, val_step=step) for step, loss in losses.items()}
    put(folder, 6, val_loss=0.5, val_step=5)  # the loss of other weights than its own
    assert find(tmp_path).step == find(tmp_path, "best").step == 2  # of two, the earlier
    assert find(tmp_path, "last").step == 6 and find(tmp_path, "5").step == 5
    for wrong in ("7", "first", "-1", ""):
        with pytest.raises(UserError, match="choose best, last or one of the steps 1, 2, 3"):
            find(tmp_path, wrong)
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    assert find(tmp_path).step == 4
    assert capsys.readouterr().err.startswith(f"skipped: {paths[2]} is damaged")
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        find(tmp_path, "2")
    for path in folder.iterdir():
        path.unlink()
    put(folder, 1), put(folder, 2)
    assert find(tmp_path).step == 2  # none was measured


def test_a_path_given_by_hand_has_no_fallback(tmp_path: Path) -> None:
    """Who names a file wants this one, not its neighbour."""
    put(tmp_path, 1)
    second = put(tmp_path, 2)
    second.write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        find(second)


def left(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("step-*"))


def test_prune_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    """The best of an overfitted run is an early one: deleted, hours are lost."""
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.7}
    for step, loss in losses.items():
        last = put(tmp_path, step, val_loss=loss, val_step=step)
    prune(last, 2)
    assert left(tmp_path) == [2, 4, 5]
    prune(last, 2)
    assert left(tmp_path) == [2, 4, 5]


def test_prune_takes_a_loss_for_the_step_it_was_measured_at(tmp_path: Path) -> None:
    """A checkpoint between evaluations carries the loss of an earlier model: not its own."""
    put(tmp_path, 1, val_loss=1.0, val_step=1)
    put(tmp_path, 2, val_loss=1.0, val_step=1)
    for step in (3, 4):
        last = put(tmp_path, step, val_loss=2.0, val_step=3)
    prune(last, 2)
    assert left(tmp_path) == [1, 3, 4]


def test_prune_lets_no_damaged_file_count(tmp_path: Path) -> None:
    """Two damaged files that are newer than the run: counted as the last two, they would have the
    valid ones deleted; read, their header would end the run with the save just done."""
    for step in (1, 2, 8, 9):
        put(tmp_path, step)
    eighth, ninth = (next(tmp_path.glob(f"step-{step:08}*")) for step in (8, 9))
    eighth.write_bytes(eighth.read_bytes()[:-1])  # its header is still right
    ninth.write_bytes(b"damaged, not even a header")
    put(tmp_path, 7).write_bytes(eighth.read_bytes())
    next(tmp_path.glob("step-00000001*")).write_bytes(b"")
    last = put(tmp_path, 3)
    prune(last, 2)
    assert left(tmp_path) == [1, 2, 3, 7, 8, 9]
    prune(put(tmp_path, 4), 2)
    assert left(tmp_path) == [1, 3, 4, 7, 8, 9]


def test_a_copy_elsewhere_is_the_same(tmp_path: Path) -> None:
    """A checkpoint must not know where it lies."""
    path = put(tmp_path, 1)
    (tmp_path / "far").mkdir()
    copied = read(Path(shutil.copy(path, tmp_path / "far")))
    assert isinstance(copied, Checkpoint) and copied.metadata == read(path).metadata
