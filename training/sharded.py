"""Sharded checkpoints: each process of fsdp writes the parts that it holds, in the background.

    checkpoints/step-00000800-9f86d081884c7d65.sharded/
        shard-00001-model-00001-of-00001.safetensors    the parts of the first process
        shard-00002-...                                 those of the second
        checkpoint.json      metadata, each tensor's dtype and shape, the hash of each shard

torch's distributed checkpoints (DCP) write and read the shards, as safetensors: there is no pickle.
Any number of processes can read them. The name carries the hash of checkpoint.json, so it covers
every tensor. The folder has another name until all of it is on the disk, so it is whole or absent.

The hash of a shard is that of its header with sorted keys, and of its data: the library writes the
keys in another order each time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from errors import UserError
from storage import atomic_write, sync_folder
from training.distributed import World
from training.header import (
    FORMAT,
    SHOWN,
    SIZES,
    SMALL_HEADER,
    Tensors,
    checked_header,
    parse_header,
    parse_json,
)

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "checkpoint.json"
SUFFIX = ".safetensors"
INDEX_SHARE = 32  # an index of more than 1 MB is at most this part of the shards: see header.py
OFFSETS = "DCP_SHARDING_INFO"  # where DCP records which part of a tensor a shard holds


def save_sharded(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    world: World,
    written: Callable[[Path], None],
) -> Future[Path | None]:
    """Copy the tensors, then write them in the background. All processes must call this.

    The first process calls `written` with the path when the checkpoint is whole, and the future
    returns that path. An exception of the disk is raised by the future's result. Let one save end
    before the next one.
    """
    import torch.distributed.checkpoint as dcp

    part = folder / f".step-{step:08d}.part"
    if world.is_first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    world.wait()
    writer = dcp.HuggingFaceStorageWriter(str(part), save_distributed=True)
    saved: Any = dcp.async_save(dict(tensors), storage_writer=writer, process_group=world.saving)

    def finish() -> Path | None:
        try:
            saved.result()
        except dcp.api.CheckpointException as error:
            raise _cause(error) from None
        if not world.is_first:
            return None
        path = _complete(part, step, {"format": FORMAT, "step": step, **metadata})
        written(path)
        return path

    pool = ThreadPoolExecutor(1)
    future = pool.submit(finish)
    pool.shutdown(wait=False)
    return future


def _complete(part: Path, step: int, metadata: dict[str, Any]) -> Path:
    """Write the index of a folder of shards, and give the folder its name."""
    files = {path.name: hash_of_shard(path) for path in sorted(part.glob(f"*{SUFFIX}"))}
    tensors = {
        name: [dtype, list(shape)] for name, (dtype, shape) in sorted(_joined(part, files).items())
    }
    index = {"metadata": metadata, "files": files, "tensors": tensors}
    content = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    atomic_write(part / INDEX, content)
    path = part.with_name(f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.sharded")
    if path.exists():  # an equal checkpoint, saved before the run was interrupted
        shutil.rmtree(part)
    else:
        part.replace(path)
    sync_folder(path.parent)
    return path


def hash_of_shard(path: Path) -> str:
    """Hash the content of a shard, in pieces; hexadecimal."""
    header = parse_header(path)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_index(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """Return the metadata, and each tensor's dtype and shape. The content of shards is not read.

    Raises `UserError` if the folder has no index of a checkpoint.
    """
    metadata, tensors, _ = _parsed(folder, _index_bytes(folder))
    return metadata, tensors


def read_checked(folder: Path, recorded_hash: str) -> tuple[dict[str, Any], Tensors]:
    """Return what `read_index` returns, after a check of every byte in the folder.

    Raises `UserError` unless it holds exactly the shards that the hash in its name stands for.
    """
    content = _index_bytes(folder)
    damaged = f"{folder} is damaged (truncated or altered): "
    if hashlib.sha256(content).hexdigest()[:16] != recorded_hash:
        raise UserError(f"{damaged}{INDEX} does not match the hash in its name; use an earlier one")
    metadata, tensors, files = _parsed(folder, content)
    if {path.name for path in folder.iterdir()} != {*files, INDEX}:
        raise UserError(f"{damaged}it does not hold the shards that {INDEX} lists")
    for name, recorded in files.items():
        if not (name.endswith(SUFFIX) and stat.S_ISREG((folder / name).lstat().st_mode)):
            raise UserError(f"{damaged}{name} is not a regular file of tensors")
        if hash_of_shard(folder / name) != recorded:
            raise UserError(f"{damaged}{name} does not match its hash; use an earlier checkpoint")
    if _joined(folder, files) != tensors:
        raise UserError(f"{damaged}the shards do not hold the tensors that {INDEX} lists")
    return metadata, tensors


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors`, whole or divided among processes, with the values in the shards.

    Raises what the library met in a file, not its own `CheckpointException`.
    """
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single")
        reader = dcp.HuggingFaceStorageReader(str(folder))
        try:
            dcp.load(dict(tensors), storage_reader=reader, no_dist=True)
        except dcp.api.CheckpointException as error:
            raise _cause(error) from None


def empty_tensors(header: Tensors) -> dict[str, Tensor]:
    """Return tensors of these dtypes and shapes, for `read_shards` to fill."""
    import torch

    dtypes = {"F32": torch.float32, "U8": torch.uint8}
    return {name: torch.empty(shape, dtype=dtypes[d]) for name, (d, shape) in header.items()}


def _joined(folder: Path, files: Mapping[str, str]) -> Tensors:
    """Return the tensors that the shards hold together. Raises `UserError` if parts are missing.

    The parts of a tensor are blocks of whole rows, as FSDP divides it.
    """
    parts: dict[str, list[tuple[int, str, tuple[int, ...]]]] = {}
    for file in files:
        parse_header(folder / file)  # checks its length before the native parser reads it
        try:
            with safe_open(folder / file, framework="pt") as shard:
                offsets = parse_json((shard.metadata() or {}).get(OFFSETS, "{}"))
                if not isinstance(offsets, dict) or offsets.keys() != set(shard.keys()):
                    raise UserError(f"{folder / file} is damaged: {OFFSETS} lists other tensors")
                for name, place in offsets.items():
                    block = shard.get_slice(name)
                    dtype, shape = block.get_dtype(), tuple(block.get_shape())
                    if dtype not in SIZES or not _is_block_of_rows(place, shape):
                        raise UserError(
                            f"{folder / file} is damaged: {name[:SHOWN]} is no block of rows"
                        )
                    parts.setdefault(name, []).append((place["saved_offsets"][0], dtype, shape))
        except SafetensorError as error:
            raise UserError(f"{folder / file} is damaged: {str(error)[:SHOWN]}") from None
    return {name: _join(f"{folder}: {name[:SHOWN]}", blocks) for name, blocks in parts.items()}


def _is_block_of_rows(place: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a part's offsets are integers, one a dimension, and 0 in all but the first.

    Nothing else may be there: the library parses all of it, and uses the numbers as they are.
    """
    offset = place.get("saved_offsets") if isinstance(place, dict) and len(place) == 1 else None
    return (
        isinstance(offset, list)
        and len(offset) == len(shape) > 0
        and all(type(number) is int for number in offset)
        and not any(offset[1:])
    )


def _join(name: str, blocks: list[tuple[int, str, tuple[int, ...]]]) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape of a tensor that consists of blocks of rows.

    Raises `UserError` unless each block begins where the one before it ends. Two blocks may not
    begin at the same row, even if one is empty: the library would read only one.
    """
    rows, (_, dtype, shape) = 0, blocks[0]
    fits = len({start for start, _, _ in blocks}) == len(blocks)
    for start, its_dtype, its_shape in sorted(blocks):
        fits = fits and (start, its_dtype, its_shape[1:]) == (rows, dtype, shape[1:])
        rows += its_shape[0]
    if not fits:
        raise UserError(f"{name} is damaged: its parts do not fit together")
    return dtype, (rows, *shape[1:])


def _index_bytes(folder: Path) -> bytes:
    """Read the index. Raises `UserError` if there is none, or if it is too long for its shards."""
    path = folder / INDEX
    size = sum(shard.lstat().st_size for shard in folder.glob(f"*{SUFFIX}"))
    longest = max(SMALL_HEADER, size // INDEX_SHARE)
    if not path.is_file():
        raise UserError(f"{folder} is not a checkpoint: it has no {INDEX}")
    if path.stat().st_size > longest:
        raise UserError(f"{folder} is damaged: its {INDEX} is too long")
    return path.read_bytes()


def _parsed(folder: Path, content: bytes) -> tuple[dict[str, Any], Tensors, dict[str, Any]]:
    """Return the metadata, each tensor's dtype and shape, and the hash of each shard."""
    index = parse_json(content)
    keys = ("metadata", "files", "tensors")
    if not isinstance(index, dict) or not all(isinstance(index.get(key), dict) for key in keys):
        raise UserError(f"{folder} is not a checkpoint: its {INDEX} cannot be read")
    entries = {
        name: {"dtype": entry[0], "shape": entry[1]}
        if isinstance(entry, list) and len(entry) == 2
        else None
        for name, entry in index["tensors"].items()
    }
    return *checked_header(folder, index["metadata"], entries), index["files"]


def _cause(error: Any) -> BaseException:
    """Return the first of the exceptions in a `CheckpointException`; without any, the error."""
    cause: BaseException = next(iter(error.failures.values()), (error,))[0]
    return cause
