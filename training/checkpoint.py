"""Checkpoints: one file each, whose name carries the hash of every byte in it.

    checkpoints/step-00000800-9f86d081884c7d65.safetensors
        tok_embeddings.weight ...      the weights, under Mistral's names
        moments/<weight>.<moment>      the optimizer's moments, fp32
        tokenizer                      the SentencePiece model, as bytes
        breeze (metadata)              canonical JSON: format, step, config, data hash, val loss

Nothing in it depends on the clock, the host or the folder, so the same run gives the same bytes.
There is no pickle and no pointer file that could disagree: the newest file with a right hash is it.
"""

import hashlib
import json
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from errors import UserError
from storage import atomic_write, sha256_of

FORMAT = 1
NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.safetensors")
HISTORY = ("val_loss", "val_step", "best_loss", "best_step")  # what is said of validation
LARGEST_HEADER = 100_000_000  # bytes; what safetensors itself accepts
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A file whose hash is right and whose header is sane. Tensors are read on demand."""

    path: Path
    metadata: dict[str, Any]
    header: dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)

    @property
    def step(self) -> int:
        """Updates that were done when it was saved."""
        return int(self.metadata["step"])

    def tokenizer(self) -> bytes:
        """Read the SentencePiece model."""
        return bytes(self._read(["tokenizer"])["tokenizer"].numpy())

    def weights(self, expected: Shapes) -> dict[str, Tensor]:
        """Read the weights; `UserError` unless names, shapes and dtype are those expected."""
        found = {n for n in self.header if n != "tokenizer" and not n.startswith("moments/")}
        for name in sorted(found ^ expected.keys()):
            has = "has" if name in found else "lacks"
            raise UserError(
                f"{self.path} is of another architecture than its config: it {has} {name}"
            )
        for name, shape in expected.items():
            if self.header[name] != ("F32", tuple(shape)):
                raise UserError(
                    f"{self.path} is of another architecture than its config: {name} is "
                    f"{self.header[name]}, expected {('F32', tuple(shape))}"
                )
        weights = self._read(expected)
        for name, weight in weights.items():
            if not weight.isfinite().all():
                raise UserError(
                    f"{self.path} holds weights that are not finite ({name}): the run that wrote "
                    "it had diverged; use an earlier checkpoint"
                )
        return weights

    def moments(self, expected: Shapes) -> dict[str, Tensor]:
        """Read the optimizer's moments, of the weights whose shapes are given."""
        names = [name for name in self.header if name.startswith("moments/")]
        for name in names:
            weight = name.removeprefix("moments/").rpartition(".")[0]
            if self.header[name] != ("F32", expected.get(weight)):
                raise UserError(f"{self.path} has a moment that fits no weight: {name}")
        return {n.removeprefix("moments/"): tensor for n, tensor in self._read(names).items()}

    def _read(self, names: Iterable[str]) -> dict[str, Tensor]:
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise UserError(f"{self.path} is damaged: {error}; use an earlier checkpoint") from None


def save(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    tokenizer: bytes,
    metadata: Mapping[str, Any],
) -> Path:
    """Write one checkpoint atomically and return its path. `metadata` must be plain JSON values."""
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    tensors |= {f"moments/{name}": moment.cpu().contiguous() for name, moment in moments.items()}
    tensors["tokenizer"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    about = json.dumps(
        {"format": FORMAT, "step": step, **metadata}, sort_keys=True, separators=(",", ":")
    )
    content = to_bytes(tensors, {"breeze": about})
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    atomic_write(path, content)
    return path


def read(path: Path) -> Checkpoint:
    """Check one file by hash and header. Raises `UserError` that says what is wrong with it."""
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path} is not a regular file: give a run's folder or a checkpoint file")
    named = NAME.fullmatch(path.name)
    if named and sha256_of(path)[:16] != named[2]:
        raise UserError(
            f"{path} is damaged (truncated or altered): its content does not match the hash in its "
            "name; use an earlier checkpoint"
        )
    header = _header(path)
    metadata = _about(path, header)
    tensors = {
        name: (about["dtype"], tuple(about["shape"]))
        for name, about in header.items()
        if name != "__metadata__"
    }
    if not named:
        print(
            f"note: {path.name} carries no hash in its name, so damage to it cannot be noticed",
            file=sys.stderr,
        )
    return Checkpoint(path, metadata, tensors)


def newest(folder: Path) -> Checkpoint | None:
    """Find the newest valid checkpoint; each file skipped is named on stderr.

    None if there is no file at all; `UserError` if there are files but none is valid: a run must
    never start from zero over the remains of another.
    """
    paths = _by_step(folder)
    for path in reversed(paths):
        try:
            return read(path)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
    if paths:
        raise UserError(
            f"none of the {len(paths)} checkpoints in {folder} is valid: restore one, or "
            "remove the run's folder to start from the beginning"
        )
    return None


def find(run: Path, which: str = "last") -> Checkpoint:
    """Find the checkpoint that RUN means: a checkpoint file, or one of a run's folder.

    `which` is `best`, `last` or a step.
    """
    if not run.exists():
        raise UserError(f"there is no run {run}: train one with `python train.py`, or see runs/")
    if not run.is_dir():
        return read(run)
    checkpoint = newest(run / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{run} has no checkpoints yet: train it first")
    return checkpoint


def prune(last: Path, keep: int) -> None:
    """Delete all but `keep` checkpoints up to `last` and the one with the lowest validation loss.

    What is later than `last`, the file just saved, was skipped as damaged when the run went on: it
    neither counts nor is it read, and it stays until the run arrives at that step again.
    """
    paths, measured = [], {}
    for path in _by_step(last.parent):
        if path.name.split("-")[1] > last.name.split("-")[1]:
            continue
        try:
            about = _about(path, _header(path))
        except UserError:  # damaged as well
            continue
        paths.append(path)
        if about.get("val_step") == about["step"]:
            measured[path] = about["val_loss"]
    best = min(measured, key=lambda path: measured[path], default=None)
    for path in paths[:-keep]:
        if path != best:
            path.unlink()


def _by_step(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name))


def _about(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Parse what a checkpoint says of itself. Raises `UserError` for another program's file."""
    try:
        about = json.loads(header["__metadata__"]["breeze"])
        assert about["format"] == FORMAT and isinstance(about["config"], dict)
        assert type(about["step"]) is int and about["step"] >= 0
        assert isinstance(about["data_hash"], str)
        assert all(isinstance(about.get(key, 0), int | float) for key in HISTORY)
        for name in header.keys() - {"__metadata__"}:
            assert isinstance(header[name]["dtype"], str)
            assert all(type(length) is int for length in header[name]["shape"])
        assert header["tokenizer"]["dtype"] == "U8"
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError, RecursionError):
        raise UserError(
            f"{path} is a safetensors file, but not a checkpoint of Breeze (format {FORMAT})"
        ) from None
    return dict(about)


def _header(path: Path) -> dict[str, Any]:
    """Parse a safetensors header, 8 bytes of length and JSON, before any native parser sees it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise UserError(
                f"{path} is not a checkpoint: it does not begin like a safetensors file"
            )
        try:
            header = json.loads(file.read(length))
            assert isinstance(header, dict)
        except (ValueError, AssertionError, RecursionError):
            raise UserError(f"{path} is not a checkpoint: its header cannot be read") from None
    return header
