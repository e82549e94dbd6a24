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
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from errors import UserError
from storage import atomic_write, sha256_of
from training import sharded
from training.distributed import own_part, part_of
from training.header import FORMAT, SHOWN, read_header, val_loss

if TYPE_CHECKING:
    from torch import Tensor

MOMENTS = "moments/"  # the names of the optimizer's moments begin so
NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.(safetensors|sharded)")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A file, or a folder of shards, with a valid hash and header. Methods read the tensors."""

    path: Path
    metadata: dict[str, Any]
    header: dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)

    @property
    def step(self) -> int:
        """Number of updates before it was saved."""
        return int(self.metadata["step"])

    @property
    def identity(self) -> tuple[int, int]:
        """Its step, and the first 48 bits of the hash in its name: equal for equal files."""
        named = NAME.fullmatch(self.path.name)
        return self.step, int(named[2][:12], 16) if named else 0

    @property
    def val_loss(self) -> float:
        """Validation loss of these weights in nats per token; infinite if it was not measured."""
        return val_loss(self.metadata)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The windows of its last update, one of each layer. Raises `UserError` without any."""
        if "windows" not in self.metadata:
            raise UserError(f"{self.path} does not record the windows of its last update")
        return tuple(self.metadata["windows"])

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
        """Read the weights. Raises `UserError` as `refuse_other_weights` and `read_into` do."""
        self.refuse_other_weights(expected)
        return self._read(expected)

    def refuse_other_weights(self, expected: Shapes) -> None:
        """Raise `UserError` if names, shapes or dtypes of the weights differ from `expected`."""
        names = {name for name in self.header if name != "tokenizer" and not _is_moment(name)}
        for name in sorted(names ^ expected.keys()):
            verb = "has" if name in names else "lacks"
            raise UserError(
                f"{self.path} is of another architecture than its config: it {verb} {name[:SHOWN]}"
            )
        for name, shape in expected.items():
            if self.header[name] != ("F32", tuple(shape)):
                raise UserError(
                    f"{self.path} is of another architecture than its config: {name} is "
                    f"{self.header[name]}, expected {('F32', tuple(shape))}"
                )

    def refuse_other_moments(self, expected: Shapes) -> None:
        """Raise `UserError` if there are no moments of the optimizer, or others than `expected`."""
        self.refuse_without_moments()
        for name in sorted({*filter(_is_moment, self.header), *expected}):
            if self.header.get(name) != ("F32", expected.get(name)):
                verb = "has another moment" if name in self.header else "lacks the moment"
                raise UserError(
                    f"{self.path} {verb} of the optimizer: {name[:SHOWN]}; it cannot be resumed"
                )

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors with those of the same names. Processes may hold parts of them.

        Raises `UserError` if a number is not finite.
        """
        with self._reading():
            if self.path.is_dir():
                sharded.read_shards(self.path, tensors)
            else:
                with safe_open(self.path, framework="pt") as file:
                    for name, tensor in tensors.items():
                        tensor.copy_(part_of(file.get_tensor(name), tensor))
        self._refuse_not_finite(tensors)

    def _refuse_not_finite(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not own_part(tensor).isfinite().all():
                raise UserError(
                    f"{self.path} holds numbers that are not finite ({name}): the run had diverged "
                    "when it wrote this file; use an earlier checkpoint"
                )

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
        """Read whole tensors. Raises `UserError` if a number is not finite."""
        if self.path.is_dir():
            tensors = sharded.empty_tensors({name: self.header[name] for name in names})
            self.read_into(tensors)
            return tensors
        with self._reading(), safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
        self._refuse_not_finite(tensors)
        return tensors

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn damage and a lack of memory that a library reports into a `UserError`."""
        try:
            yield
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
    return save_tensors(folder, step, tensors_of(weights, moments, tokenizer), metadata)


def save_tensors(
    folder: Path, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write one checkpoint as `save` does; `tensors` are those of `tensors_of`."""
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    content = _serialize(stored, {"format": FORMAT, "step": step, **metadata})
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    atomic_write(path, content)
    return path


def tensors_of(
    weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], tokenizer: bytes
) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint under their names in it."""
    import torch

    tensors = {name: weight.detach() for name, weight in weights.items()}
    tensors |= {f"{MOMENTS}{name}": moment for name, moment in moments.items()}
    tensors["tokenizer"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    return tensors


def _serialize(tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save as to_bytes

    return to_bytes(
        tensors, {"breeze": json.dumps(metadata, sort_keys=True, separators=(",", ":"))}
    )


def _is_moment(name: str) -> bool:
    return name.startswith(MOMENTS)


# ------------------------------------------------------------------- read and check


def read(path: Path) -> Checkpoint:
    """Check the hash and the header of one file. Raises `UserError` that says what is wrong."""
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    named = NAME.fullmatch(path.name)
    if named and path.is_dir():
        metadata, tensors = sharded.read_checked(path, named[2])
        return _of_its_step(Checkpoint(path, metadata, tensors))
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path} is not a regular file: give a run's folder or a checkpoint file")
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
    return _of_its_step(Checkpoint(path, metadata, tensors))


def _of_its_step(checkpoint: Checkpoint) -> Checkpoint:
    """Return `checkpoint`. Raises `UserError` if its name has another step than its content."""
    named = NAME.fullmatch(checkpoint.path.name)
    if named and int(named[1]) != checkpoint.step:
        raise UserError(
            f"{checkpoint.path} is not of the step in its name, but of step {checkpoint.step:,}"
        )
    return checkpoint
