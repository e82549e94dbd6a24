"""What does each shard of a checkpoint hold? Tensors, rows and bytes, from the headers alone.

Each process of fsdp writes the parts that it holds as one file (`training/sharded.py`). No number
of a tensor is read and no hash is checked; `find` in `training/run_folder.py` does that.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, command
from model.cost import in_bytes
from training.checkpoint import MOMENTS
from training.header import SIZES, Tensors, parse_header
from training.sharded import INDEX, SUFFIX, read_index


@dataclass(frozen=True)
class Shard:
    """What one file holds. Rows are the first dimensions of its tensors, added up."""

    name: str
    tensors: int
    rows: int
    weights: int  # bytes
    moments: int
    file: int  # its whole size, with the header

    @property
    def total(self) -> int:
        """Bytes of weights and moments."""
        return self.weights + self.moments


def shards_of(folder: Path) -> list[Shard]:
    """Read what each shard holds. Raises `UserError` if `folder` is no sharded checkpoint, or if
    its shards hold other bytes than its index lists."""
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{folder} is no sharded checkpoint: give runs/NAME/checkpoints/step-*.sharded, which "
            "fsdp writes"
        )
    _, whole = read_index(folder)
    shards = [_shard(path, whole) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    listed = sum(_size(*entry) for name, entry in whole.items() if name != "tokenizer")
    if sum(shard.total for shard in shards) != listed:
        raise UserError(f"{folder} is damaged: its shards do not hold the tensors of its index")
    return shards


def _shard(path: Path, whole: Tensors) -> Shard:
    if not path.is_file():
        raise UserError(f"{path} is not a regular file")
    header = parse_header(path)
    held = [name for name in header if name in whole and name != "tokenizer"]
    parts = {name: _shape(path, header[name], whole[name]) for name in held}
    sizes = {name: _size(whole[name][0], shape) for name, shape in parts.items()}
    moments = sum(size for name, size in sizes.items() if name.startswith(MOMENTS))
    return Shard(
        name=path.name.partition("-model")[0],
        tensors=len(held),
        rows=sum(shape[0] for shape in parts.values()),
        weights=sum(sizes.values()) - moments,
        moments=moments,
        file=path.stat().st_size,
    )


def _shape(path: Path, entry: Any, whole: tuple[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of a part of a tensor, some rows of the whole."""
    dtype, shape = whole
    listed = entry.get("shape") if isinstance(entry, dict) else None
    rows = listed[:1] if listed and isinstance(listed, list) else [None]
    expected = {"dtype": dtype, "shape": [*rows, *shape[1:]]}
    if not shape or type(rows[0]) is not int or not 0 <= rows[0] <= shape[0]:
        raise UserError(f"{path} is damaged: a tensor is no block of rows")
    if {key: entry.get(key) for key in expected} != expected:
        raise UserError(f"{path} is damaged: a tensor is not of the shape that the index lists")
    return rows[0], *shape[1:]


def _size(dtype: str, shape: Sequence[int]) -> int:
    if dtype not in SIZES:
        raise UserError(f"a tensor has numbers of another type: {dtype}")
    return SIZES[dtype] * prod(shape)


def table(shards: Sequence[Shard]) -> Iterator[str]:
    """Yield a line for each shard, and one for all."""
    whole = sum(shard.total for shard in shards) or 1
    yield (
        f"{'':12} {'tensors':>8} {'rows':>10} {'weights':>12} {'moments':>12} {'share':>7} "
        f"{'file':>12}"
    )
    for shard in shards:
        yield (
            f"{shard.name:12} {shard.tensors:>8,} {shard.rows:>10,} {in_bytes(shard.weights):>12} "
            f"{in_bytes(shard.moments):>12} {shard.total / whole:>7.1%} {in_bytes(shard.file):>12}"
        )
    rows, weights, moments, files = (
        sum(getattr(shard, name) for shard in shards)
        for name in ("rows", "weights", "moments", "file")
    )
    yield (
        f"{'all':12} {'':8} {rows:>10,} {in_bytes(weights):>12} {in_bytes(moments):>12} "
        f"{1:>7.1%} {in_bytes(files):>12}"
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print what each shard holds."""
    parser = ArgumentParser(
        prog="python -m scripts.shards",
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m scripts.shards runs/fsdp/checkpoints/step-*.sharded",
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args(argv)
    found = {str(path): shards_of(path) for path in arguments.checkpoints}
    if arguments.json:
        plain = {path: [asdict(shard) for shard in shards] for path, shards in found.items()}
        print(json.dumps(plain, indent=1))
    else:
        print("\n\n".join("\n".join([path, "", *table(s)]) for path, s in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
