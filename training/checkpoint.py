"""Checkpoints: one file each, whose name carries the hash of its content.

    checkpoints/step-00000800-9f86d081884c7d65.safetensors
        tok_embeddings.weight ...      the weights, under Mistral's names
        moments/<weight>.<moment>      the optimizer's moments, fp32
        tokenizer                      the file of the tokenizer, as bytes
        breeze (metadata)              JSON with sorted keys: format, step, config, data hash, loss

No byte depends on the clock, the machine or the folder, so equal runs write equal files. There is
no pickle, and no file that points to the newest checkpoint: the newest file with a valid hash is
used. torch is imported only when tensors are read or written, so a missing run is reported at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from errors import UserError
from storage import atomic_write, sha256_of
from training.header import FORMAT, read_header, val_loss

if TYPE_CHECKING:
    from torch import Tensor

NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.safetensors")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A file with a valid hash and a valid header. A method reads the tensors that it returns."""

    path: Path
    metadata: dict[str, Any]
    header: dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)

    @property
    def step(self) -> int:
        """Number of updates before it was saved."""
        return int(self.metadata["step"])

    @property
    def val_loss(self) -> float:
        """Validation loss of these weights in nats per token; infinite if it was not measured."""
        return val_loss(self.metadata)

    def tokenizer(self) -> bytes:
        """Read the file of the tokenizer."""
        return bytes(self._read(["tokenizer"])["tokenizer"].numpy())

    @property
    def vocab_size(self) -> int:
        """The number of tokens that the model knows."""
        _, shape = self.header.get("tok_embeddings.weight", ("", ()))
        if not shape:
            raise UserError(f"{self.path} holds no model: it lacks tok_embeddings.weight")
        return shape[0]

    def weights(self, expected: Shapes) -> dict[str, Tensor]:
        """Read the weights.

        Raises `UserError` if their names, shapes or dtypes differ from `expected`, or if a weight
        is not finite.
        """
        names = {name for name in self.header if name != "tokenizer" and not _is_moment(name)}
        for name in sorted(names ^ expected.keys()):
            verb = "has" if name in names else "lacks"
            raise UserError(
                f"{self.path} is of another architecture than its config: it {verb} {name}"
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
                    f"{self.path} holds weights that are not finite ({name}): the run had diverged "
                    "when it wrote this file; use an earlier checkpoint"
                )
        return weights

    def moments(self, expected: Shapes) -> dict[str, Tensor]:
        """Read the optimizer's moments; `expected` are the shapes of the weights.

        Raises `UserError` if there are none, or if one fits no weight.
        """
        self.refuse_without_moments()
        names = [name for name in self.header if _is_moment(name)]
        for name in names:
            weight = name.removeprefix("moments/").rpartition(".")[0]
            if self.header[name] != ("F32", expected.get(weight)):
                raise UserError(f"{self.path} has a moment that fits no weight: {name}")
        return {n.removeprefix("moments/"): tensor for n, tensor in self._read(names).items()}

    def refuse_without_moments(self) -> None:
        """Raise `UserError` if there are no moments of the optimizer: what to do instead."""
        if any(map(_is_moment, self.header)):
            return
        start = f"start a new run from these weights with train.init_from={self.path}"
        if imported := self.metadata.get("imported_from"):
            raise UserError(
                f"{self.path} was imported from {imported}, and no training can be resumed: {start}"
            )
        raise UserError(
            f"{self.path} holds no moments of the optimizer, so it cannot be resumed: resume the "
            f"original run, or {start}"
        )

    def without_moments(self) -> bytes:
        """Return the content of the file without moments: a run cannot be resumed from it."""
        tensors = self._read(name for name in self.header if not _is_moment(name))
        return _serialize(tensors, self.metadata)

    def _read(self, names: Iterable[str]) -> dict[str, Tensor]:
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise UserError(f"{self.path} is damaged: {error}; use an earlier checkpoint") from None
        except RuntimeError as error:  # of torch, which reports a lack of memory so too
            if str(self.path) not in str(error):
                raise
            raise UserError(f"{self.path} cannot be read: check the disk ({error})") from None


# ------------------------------------------------------------------- write


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
    import torch

    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    tensors |= {f"moments/{name}": moment.cpu().contiguous() for name, moment in moments.items()}
    tensors["tokenizer"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    content = _serialize(tensors, {"format": FORMAT, "step": step, **metadata})
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    atomic_write(path, content)
    return path


def prune(last: Path, keep: int) -> None:
    """Delete checkpoints: keep the newest `keep` up to `last`, and the lowest validation loss.

    `last` is the file that was just saved. Files of later steps were skipped as damaged when the
    run was resumed. They are not counted, not read and not deleted.
    """
    losses = _losses(path for path in _by_step(last.parent) if _step(path) <= _step(last))
    lowest = min(losses.values())
    best = next(path for path in losses if losses[path] == lowest)
    for path in list(losses)[:-keep]:
        if path != best or lowest == math.inf:
            path.unlink()


def _serialize(tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save as to_bytes

    return to_bytes(
        tensors, {"breeze": json.dumps(metadata, sort_keys=True, separators=(",", ":"))}
    )


# ------------------------------------------------------------------- find


def find(run: Path, which: str = "best") -> Checkpoint:
    """Find the checkpoint that RUN means: a checkpoint file, or one in a run's folder.

    `which` chooses in a folder: `best` (the lowest validation loss; the newest if no loss was
    measured), `last` or a step. Damaged files are skipped and reported, as in `newest`. Raises
    `UserError` if there is no such checkpoint.
    """
    if not run.exists():
        raise UserError(f"there is no run {run}: train one with `python train.py`, or see runs/")
    if not run.is_dir():
        return read(run)
    paths = _by_step(run / "checkpoints")
    if not paths and (run / "config.json").exists():
        raise UserError(
            f"{run} is a folder of Hugging Face: `python -m scripts.import_hf {run} --out "
            "runs/NAME` makes a run of it"
        )
    if not paths:
        raise UserError(f"{run} has no checkpoints yet: train it first")
    if which == "best":
        order = _best_first(paths)
    elif which == "last":
        order = paths[::-1]
    else:
        order = [path for path in paths if str(_step(path)) == which]
        steps = ", ".join(dict.fromkeys(str(_step(path)) for path in paths))
        if not order:
            raise UserError(
                f"{run} has no checkpoint {which}: choose best, last or one of the steps {steps}"
            )
    return _first_valid(order)


def newest(folder: Path) -> Checkpoint | None:
    """Find the newest valid checkpoint in `folder`; each damaged file is skipped and reported.

    Returns None if there is no file. Raises `UserError` if there are files and none is valid,
    because a run must never start from zero in the folder of another.
    """
    paths = _by_step(folder)
    return _first_valid(paths[::-1]) if paths else None


def _first_valid(paths: Sequence[Path]) -> Checkpoint:
    for path in paths:
        try:
            return read(path)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
    raise UserError(
        f"none of the {len(paths)} checkpoints in {paths[0].parent} is valid: restore one, or "
        "remove the run's folder to start from the beginning"
    )


def _best_first(paths: Sequence[Path]) -> list[Path]:
    """Sort by validation loss; files without a loss come last, the newest of them first."""
    losses = _losses(paths)
    measured = [path for path in paths if losses.get(path, math.inf) < math.inf]
    others = [path for path in reversed(paths) if path not in measured]
    return sorted(measured, key=lambda path: losses[path]) + others


def _losses(paths: Iterable[Path]) -> dict[Path, float]:
    """Return the validation loss of each file, infinite if it was not measured.

    Files with a damaged header are left out.
    """
    losses = {}
    for path in paths:
        with contextlib.suppress(UserError):
            losses[path] = val_loss(read_header(path)[0])
    return losses


def _by_step(folder: Path) -> list[Path]:
    """List the checkpoints in `folder`, the oldest first."""
    paths = (path for path in folder.glob("step-*") if NAME.fullmatch(path.name))
    return sorted(paths, key=lambda path: (_step(path), path.name))


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _is_moment(name: str) -> bool:
    return name.startswith("moments/")


# ------------------------------------------------------------------- read and check


def read(path: Path) -> Checkpoint:
    """Check the hash and the header of one file. Raises `UserError` that says what is wrong."""
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
    metadata, tensors = read_header(path)
    if not named:
        print(
            f"note: {path.name} has no hash in its name, so damage to it cannot be detected",
            file=sys.stderr,
        )
    return Checkpoint(path, metadata, tensors)
