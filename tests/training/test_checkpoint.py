"""Checkpoints: read exactly as saved, or refused in one line, without a crash or a hang."""

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
import tiny
import torch

from errors import UserError
from inference.trained import open_trained
from scripts import sample
from training.checkpoint import Checkpoint, read, save
from training.run_folder import find, newest, prune

METADATA = {"config": {"seed": 1}, "data_hash": "00"}
WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b.weight": torch.tensor([1.5, -0.0])}
MOMENTS = {"a.weight.exp_avg": torch.ones(3, 4), "b.weight.exp_avg": torch.zeros(2)}
SHAPES = {"a.weight": (3, 4), "b.weight": (2,)}


def save_step(folder: Path, step: int, **metadata: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return save(folder, step, weights=WEIGHTS, moments=MOMENTS, tokenizer=b"pieces",
                metadata=METADATA | metadata)  # fmt: skip


def renamed(path: Path, step: int | None = None) -> Path:
    """Rename a file by the hash of its content, so that its name is valid again."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    number = path.name.split("-")[1] if step is None else f"{step:08}"
    return path.rename(path.with_name(f"step-{number}-{digest}.safetensors"))


# ------------------------------------------------------------------- save and read


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    """A bit of a weight, a moment, the tokenizer or a number could be lost."""
    checkpoint = read(save_step(tmp_path, 7, val_loss=1.25, val_step=7))
    assert checkpoint.step == 7 and checkpoint.metadata["val_loss"] == 1.25
    assert checkpoint.metadata["config"] == {"seed": 1}
    assert checkpoint.tokenizer() == b"pieces"
    for name, tensor in checkpoint.weights(SHAPES).items():
        assert tensor.numpy().tobytes() == WEIGHTS[name].numpy().tobytes()  # -0.0 as well
    moments = {f"moments/{name}": torch.empty_like(moment) for name, moment in MOMENTS.items()}
    checkpoint.refuse_other_moments({name: tuple(m.shape) for name, m in moments.items()})
    checkpoint.read_into(moments)
    assert all(torch.equal(moments[f"moments/{name}"], MOMENTS[name]) for name in MOMENTS)


def test_a_missing_moment_is_refused(tmp_path: Path) -> None:
    """The optimizer would continue from a moment of 0; a moment too many shows another model."""
    checkpoint = read(save_step(tmp_path, 1))
    shapes = {f"moments/{name}": tuple(moment.shape) for name, moment in MOMENTS.items()}
    checkpoint.refuse_other_moments(shapes)
    with pytest.raises(UserError, match=r"lacks the moment .* moments/c\.exp_avg"):
        checkpoint.refuse_other_moments(shapes | {"moments/c.exp_avg": (2,)})
    del shapes["moments/b.weight.exp_avg"]
    with pytest.raises(UserError, match=r"has another moment .* moments/b\.weight\.exp_avg"):
        checkpoint.refuse_other_moments(shapes)


def test_the_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    """Equal runs could not be compared if the file depended on the time, the folder or an order."""
    a = save_step(tmp_path / "one", 3, val_loss=1.0, val_step=3)
    reordered = dict(reversed(WEIGHTS.items()))
    (tmp_path / "two").mkdir()
    b = save(tmp_path / "two", 3, weights=reordered, moments=dict(reversed(MOMENTS.items())),
             tokenizer=b"pieces",
             metadata={"val_step": 3, "val_loss": 1.0, **METADATA})  # fmt: skip
    assert a.name == b.name and a.read_bytes() == b.read_bytes()
    assert save_step(tmp_path / "one", 4).name != a.name


def test_any_safetensors_reader_can_open_it(tmp_path: Path) -> None:
    """Other programs must be able to read the weights."""
    path = save_step(tmp_path, 1)
    assert torch.equal(safetensors.torch.load_file(path)["a.weight"], WEIGHTS["a.weight"])


def test_a_transposed_weight(tmp_path: Path) -> None:
    """A transposed view must be stored by its values, not by its order in memory."""
    weights = {"a.weight": torch.arange(12.0).reshape(4, 3).T}
    path = save(tmp_path, 1, weights=weights, moments={}, tokenizer=b"x", metadata=METADATA)
    assert torch.equal(read(path).weights({"a.weight": (3, 4)})["a.weight"], weights["a.weight"])


# ------------------------------------------------------------------- damage


def test_truncated_anywhere(tmp_path: Path) -> None:
    """A copy could have ended early, at any byte."""
    path = save_step(tmp_path, 1)
    content = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"is damaged \(truncated or altered\)"):
            read(path)


def test_a_flipped_bit_anywhere(tmp_path: Path) -> None:
    """A disk can return wrong bits: without the hash, a weight with a wrong exponent would be
    used."""
    path = save_step(tmp_path, 1)
    content = path.read_bytes()
    for place in {*range(9), *range(9, len(content), 37), len(content) - 1}:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="is damaged"):
            read(path)


def opened(path: Path) -> None:
    """Read all of a checkpoint, as resuming and sampling do."""
    checkpoint = read(path)
    checkpoint.tokenizer()
    checkpoint.weights(SHAPES)
    moments = {f"moments/{name}": torch.empty_like(moment) for name, moment in MOMENTS.items()}
    checkpoint.refuse_other_moments({name: tuple(m.shape) for name, m in moments.items()})
    checkpoint.read_into(moments)


def test_damage_with_a_valid_hash_is_content_or_a_user_error(tmp_path: Path) -> None:
    """An attacker can compute the hash too. Whichever byte is changed, the file must be read as
    other content or refused by `UserError`; no other exception may be raised."""
    content = save_step(tmp_path, 1).read_bytes()
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
    assert refused > header  # most changes in the header are errors
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


def metadata_of(**changes: Any) -> dict[str, str]:
    return {"breeze": json.dumps({"format": 1, "step": 1, **METADATA} | changes)}


TOKENIZER = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
FOREIGN = {
    "zero bytes": b"",
    "text": b"It was a dark and stormy night. " * 9,
    "a length beyond the file": (10**9).to_bytes(8, "little") + b"{}",
    "a length of 2^64 - 1": b"\xff" * 8 + b"{}",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "a header that is a list": header_of([]),
    "a header nested 100,000 deep": header_of(b"[" * 100_000 + b"]" * 100_000),
    "a header that is not UTF-8": header_of(b"\xff\xff"),
    "another program's tensors": safetensors.torch.save({"x": torch.ones(3)}, {"format": "pt"}),
    "no metadata": safetensors.torch.save({"x": torch.ones(3)}),
    "metadata that is text": header_of({"__metadata__": "x"}),
    "no tokenizer": header_of({"__metadata__": metadata_of()}),
    "a tokenizer of floats": header_of(
        {"__metadata__": metadata_of(), "tokenizer": TOKENIZER | {"dtype": "BF16"}}
    ),
    "a tensor that is a number": header_of({"__metadata__": metadata_of(), "tokenizer": 3}),
    "another format": header_of({"__metadata__": metadata_of(format=2), "tokenizer": TOKENIZER}),
    "a step that is text": header_of(
        {"__metadata__": metadata_of(step="1"), "tokenizer": TOKENIZER}
    ),
    "a step below zero": header_of({"__metadata__": metadata_of(step=-1), "tokenizer": TOKENIZER}),
    "a config that is a list": header_of(
        {"__metadata__": metadata_of(config=[]), "tokenizer": TOKENIZER}
    ),
    "no data hash": header_of(
        {"__metadata__": metadata_of(data_hash=None), "tokenizer": TOKENIZER}
    ),
    "a best loss that is text": header_of(
        {"__metadata__": metadata_of(best_loss="low"), "tokenizer": TOKENIZER}
    ),
    "metadata nested 100,000 deep": header_of(
        {"__metadata__": {"breeze": "[" * 100_000 + "]" * 100_000}, "tokenizer": TOKENIZER}
    ),
    "a shape of text": header_of(
        {"__metadata__": metadata_of(), "tokenizer": TOKENIZER | {"shape": ["9"]}}
    ),
    "a tensor of 10^18 numbers": header_of(
        {
            "__metadata__": metadata_of(),
            "tokenizer": TOKENIZER,
            "a.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]},
        },
        b"0000",
    ),
    "tensors that overlap": header_of(
        {
            "__metadata__": metadata_of(),
            "tokenizer": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "x": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
        },
        b"000000",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("named", [True, False], ids=["with hash", "without"])
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, kind: str, named: bool) -> None:
    """A file that is not a checkpoint, by mistake or by intent, could end in a traceback, run code,
    or decide how much memory is allocated."""
    path = tmp_path / "step-00000001-x.safetensors"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(UserError) as refusal:
        opened(renamed(path) if named else path)
    assert str(path.parent) in str(refusal.value)


def test_foreign_files_are_refused_without_asserts(tmp_path: Path) -> None:
    """`python -O` drops every assert: a header must not be checked by one."""
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
    """Opening a FIFO would wait for a writer without end; reading a folder is IsADirectoryError."""
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
    """A name without a hash is allowed, but damage cannot be detected: a note must say so."""
    path = save_step(tmp_path, 5).rename(tmp_path / "my best.safetensors")
    assert read(path).step == 5
    assert "note: my best.safetensors has no hash" in capsys.readouterr().err


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """Change the metadata or tensors of a real checkpoint, and rename it by its hash."""
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
    """A config may not fit its weights: names and shapes must be compared before torch loads
    them."""
    change, expected = OTHERS[kind]
    path = edited(
        run / "checkpoints" / max(p.name for p in (run / "checkpoints").iterdir()), change
    )
    with pytest.raises(UserError, match=expected):
        open_trained(path)
    assert sample.main([str(path), "--prompt", "a", "--max-tokens", "2"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len([line for line in printed if not line.startswith("note:")]) == 1


def test_a_checkpoint_from_before_a_setting_was_added_resumes(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that a recorded config lacks has its default, so nothing has changed."""

    def without_later_settings(metadata: Any, _: Any) -> None:
        del metadata["config"]["train"]["native"], metadata["config"]["data"]["strict"]

    edited(tiny.last(run), without_later_settings)
    assert tiny.resume(run, text, "train.max_steps=11") == 0
    printed = capsys.readouterr().err
    assert "step 11" in printed and "native" not in printed and "strict" not in printed


# ------------------------------------------------------------------- find and prune


def test_newest_skips_and_reports_damaged_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest file is the most likely to be damaged. The one before it must be used then."""
    paths = [save_step(tmp_path, step) for step in (1, 2, 3)]
    assert newest(tmp_path).path == paths[2]  # type: ignore[union-attr]
    assert capsys.readouterr().err == ""
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    assert newest(tmp_path).step == 2  # type: ignore[union-attr]
    printed = capsys.readouterr().err
    assert printed.startswith(f"skipped: {paths[2]} is damaged") and str(paths[1]) not in printed


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    """10 must come after 9, whatever their hashes."""
    for step in (9, 10, 100, 99):
        save_step(tmp_path, step)
    assert newest(tmp_path).step == 100  # type: ignore[union-attr]


def test_only_damaged_files_are_an_error_and_no_file_is_none(tmp_path: Path) -> None:
    """A run could start from zero in a folder with damaged checkpoints of another run."""
    (tmp_path / "checkpoints").mkdir()
    assert newest(tmp_path / "checkpoints") is None
    with pytest.raises(UserError, match="has no checkpoints yet"):
        find(tmp_path)
    path = save_step(tmp_path / "checkpoints", 1)
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
    """RUN could be opened at another step than the requested one."""
    folder = tmp_path / "checkpoints"
    losses = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 1.0, 5: 2.0}
    paths = {
        step: save_step(folder, step, val_loss=loss, val_step=step) for step, loss in losses.items()
    }
    save_step(folder, 6, val_loss=0.5, val_step=5)  # the loss of other weights than its own
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
    save_step(folder, 1), save_step(folder, 2)
    assert find(tmp_path).step == 2  # no loss was measured: the newest


def test_a_path_given_by_hand_has_no_fallback(tmp_path: Path) -> None:
    """The user named one file: no other file may be read in its place."""
    save_step(tmp_path, 1)
    second = save_step(tmp_path, 2)
    second.write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        find(second)


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("step-*"))


def test_prune_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    """The best checkpoint of an overfitted run is an early one, and could be deleted."""
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.7}
    for step, loss in losses.items():
        last = save_step(tmp_path, step, val_loss=loss, val_step=step)
    prune(last, 2)
    assert steps_in(tmp_path) == [2, 4, 5]
    prune(last, 2)
    assert steps_in(tmp_path) == [2, 4, 5]


def test_prune_takes_a_loss_for_the_step_it_was_measured_at(tmp_path: Path) -> None:
    """A checkpoint between two evaluations records the loss of an earlier step, which is not its
    own."""
    save_step(tmp_path, 1, val_loss=1.0, val_step=1)
    save_step(tmp_path, 2, val_loss=1.0, val_step=1)
    for step in (3, 4):
        last = save_step(tmp_path, step, val_loss=2.0, val_step=3)
    prune(last, 2)
    assert steps_in(tmp_path) == [1, 3, 4]


def test_prune_ignores_damaged_files(tmp_path: Path) -> None:
    """Two damaged files of later steps: if they counted as the newest, valid files would be
    deleted; if their headers were read, the run would end with an error."""
    for step in (1, 2, 8, 9):
        save_step(tmp_path, step)
    eighth, ninth = (next(tmp_path.glob(f"step-{step:08}*")) for step in (8, 9))
    eighth.write_bytes(eighth.read_bytes()[:-1])  # its header is still right
    ninth.write_bytes(b"damaged, not even a header")
    save_step(tmp_path, 7).write_bytes(eighth.read_bytes())
    next(tmp_path.glob("step-00000001*")).write_bytes(b"")
    last = save_step(tmp_path, 3)
    prune(last, 2)
    assert steps_in(tmp_path) == [1, 2, 3, 7, 8, 9]
    prune(save_step(tmp_path, 4), 2)
    assert steps_in(tmp_path) == [1, 3, 4, 7, 8, 9]


def test_a_copy_elsewhere_is_the_same(tmp_path: Path) -> None:
    """The content of a checkpoint must not depend on its folder."""
    path = save_step(tmp_path, 1)
    (tmp_path / "far").mkdir()
    copied = read(Path(shutil.copy(path, tmp_path / "far")))
    assert isinstance(copied, Checkpoint) and copied.metadata == read(path).metadata


def test_what_is_no_file_is_skipped_in_a_folder(tmp_path: Path) -> None:
    """Opening a pipe to read its validation loss would wait for ever; a folder would end in a
    traceback."""
    folder = tmp_path / "checkpoints"
    path = save_step(folder, 1, val_loss=1.0, val_step=1)
    os.mkfifo(folder / "step-00000002-0123456789abcdef.safetensors")
    (folder / "step-00000003-0123456789abcdef.safetensors").mkdir()
    assert find(tmp_path).path == path and newest(folder).path == path  # type: ignore[union-attr]


def test_a_step_that_is_not_the_name_s_is_refused(tmp_path: Path) -> None:
    """A later step in the name would be resumed as if its updates had been done."""
    path = save_step(tmp_path, 1)
    later = path.rename(path.with_name(path.name.replace("00000001", "00000009")))
    with pytest.raises(UserError, match="not of the step in its name, but of step 1"):
        read(later)
