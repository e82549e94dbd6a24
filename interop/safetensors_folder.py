"""The weights of a Hugging Face folder: one `model.safetensors`, or shards with an index.

Only headers are read until a tensor is asked for. `pytorch_model.bin` is never opened: it is a
pickle, and reading it can run any program.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16")  # which fp32 holds without loss
CONVERT = (
    "save it as safetensors: AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW) in "
    "transformers"
)


@dataclass(frozen=True)
class Stored:
    """Where a tensor is, and what its header says."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


def list_tensors(folder: Path) -> dict[str, Stored]:
    """Return the tensors of a folder by name, from the headers of its files.

    Raises `UserError` for a folder without weights, a missing shard and a damaged file.
    """
    if (folder / INDEX).is_file():
        return _from_index(folder)
    if (folder / SINGLE).is_file():
        return _header(folder / SINGLE)
    if any(folder.glob("pytorch_model*.bin")):
        raise pickled(str(folder))
    if any(folder.glob("model-*.safetensors")):
        raise UserError(
            f"{folder} has shards but no {INDEX}, which names their tensors: restore it"
        )
    raise UserError(f"{folder} has no weights: {SINGLE} or {INDEX} with its shards is needed")


def pickled(name: str) -> UserError:
    """Return the error for a model whose weights are a pickle."""
    return UserError(
        f"{name} has its weights in pytorch_model.bin, a pickle, which can run any program when it "
        f"is read: {CONVERT}"
    )


def read(stored: Stored, name: str) -> Tensor:
    """Read one tensor as fp32. Raises `UserError` if it is damaged or not finite."""
    try:
        with safe_open(stored.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name).to(torch.float32)
    except SafetensorError as error:
        raise UserError(f"{stored.path} is damaged: {error}; download it again") from None
    if not tensor.isfinite().all():
        raise UserError(f"{stored.path}: {name} has numbers that are not finite: use other weights")
    return tensor


def _from_index(folder: Path) -> dict[str, Stored]:
    """Return the tensors that the index names, each from the header of its shard."""
    places = _weight_map(folder / INDEX)
    found: dict[str, Stored] = {}
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            n_tensors = sum(place == shard for place in places.values())
            raise UserError(
                f"{folder} lacks the shard {shard}, which holds {n_tensors} tensors: download it"
            )
        found |= _header(folder / shard)
    for name, shard in places.items():
        if name not in found or found[name].path.name != shard:
            raise UserError(f"{folder / shard} lacks {name}, which {INDEX} says it holds")
    return found


def _weight_map(path: Path) -> dict[str, str]:
    """Return the file of each tensor. Raises `UserError` if the index is not one."""
    try:
        places: Any = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        places = None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path} names no tensors (weight_map): restore the file")
    for shard in places.values():  # a name such as ../x would leave the folder
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise UserError(f"{path} names the shard {shard!r}, which is no file of its folder")
    return places


def _header(path: Path) -> dict[str, Stored]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Stored(path, part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}; download it again") from None
