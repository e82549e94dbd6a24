"""The header of a checkpoint file, read and checked before the native parser sees the file.

A safetensors file begins with 8 bytes of length and a JSON object. It holds the dtype, shape and
offsets of each tensor. Under `__metadata__` are strings of the program that wrote the file: Breeze
writes one, named `breeze`, which is JSON too:

    {"format": 1, "step": 800, "config": {...}, "data_hash": "9f86...", "windows": [64, 64],
     "val_loss": 1.6, "val_step": 800, "best_loss": 1.6, "best_step": 800}

`windows` and the last line are optional. `val_loss` was measured at `val_step`, which may be
earlier than `step`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errors import UserError

FORMAT = 1
HISTORY = ("val_loss", "val_step", "best_loss", "best_step")
# Python needs up to 24 bytes for one byte of JSON. So a header has at most 1 MB or an eighth of the
# file: reading it takes 24 MB or three times the file. A tensor's entry has about 130 bytes.
SMALL_HEADER, HEADER_SHARE = 1_000_000, 8
SHOWN = 100  # characters of a tensor's name in an error
SIZES = {"F32": 4, "U8": 1}  # bytes of a number, by the dtypes of a checkpoint
Tensors = dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)


def read_header(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Return the metadata, and each tensor's dtype and shape.

    Raises `UserError` if the file is not a checkpoint of this format.
    """
    header = parse_header(path)
    strings = header.pop("__metadata__", None)
    metadata = parse_json(strings.get("breeze")) if isinstance(strings, dict) else None
    return checked_header(path, metadata, header)


def checked_header(
    path: Path, metadata: Any, entries: Mapping[str, Any]
) -> tuple[dict[str, Any], Tensors]:
    """Return the metadata and the tensors' dtypes and shapes, if they are of a checkpoint.

    Raises `UserError`, which names `path`, if they are not.
    """
    if (
        not isinstance(metadata, dict)
        or not _is_valid(metadata)
        or not all(map(_is_tensor, entries.values()))
        or entries.get("tokenizer", {}).get("dtype") != "U8"
        or len(entries["tokenizer"]["shape"]) != 1
    ):
        raise UserError(
            f"{path} holds tensors, but is not a checkpoint of Breeze (format {FORMAT})"
        )
    tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    return metadata, tensors


def val_loss(metadata: Mapping[str, Any]) -> float:
    """Return the validation loss of the checkpoint's own step; infinite if it was not measured."""
    loss = metadata.get("val_loss", math.inf)
    measured = metadata.get("val_step") == metadata["step"] and math.isfinite(loss)
    return float(loss) if measured else math.inf


def parse_header(path: Path) -> dict[str, Any]:
    """Return the JSON object at the beginning of a safetensors file. Raises `UserError`."""
    if not path.is_file():  # opening a pipe may never return
        raise UserError(f"{path} is not a regular file: give a run's folder or a checkpoint file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        longest = min(size - 8, max(SMALL_HEADER, size // HEADER_SHARE))
        if size < 8 or not 2 <= length <= longest:
            raise UserError(
                f"{path} is not a checkpoint: it does not begin like a safetensors file"
            )
        header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a checkpoint: its header cannot be read")
    return header


def _is_valid(metadata: dict[str, Any]) -> bool:
    """Check the types of the metadata. The content of `config` is checked by `config_from_dict`."""
    losses = [metadata.get(name, 0) for name in HISTORY if name.endswith("loss")]
    steps = [metadata.get(name, 0) for name in HISTORY if name.endswith("step")]
    windows = metadata.get("windows", [])
    return (
        metadata.get("format") == FORMAT
        and _is_count(metadata.get("step"))
        and isinstance(metadata.get("config"), dict)
        and isinstance(metadata.get("data_hash"), str)
        and all(type(loss) is float or _is_count(loss) for loss in losses)
        and all(map(_is_count, steps))
        and isinstance(windows, list)
        and all(window is None or _is_count(window) for window in windows)
    )


def _is_tensor(entry: Any) -> bool:
    """Check one tensor's dtype and shape."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and isinstance(entry.get("shape"), list)
        and all(map(_is_count, entry["shape"]))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63  # `type`: True is not a count


def parse_json(text: Any) -> Any:
    """Parse JSON; None if `text` is not JSON, or gives a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (TypeError, ValueError, RecursionError):
        return None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Of two equal keys, another parser may read another one than Python does."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is given twice")
    return values
