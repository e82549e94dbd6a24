"""Damaged and hostile folders of shards, as `bad_checkpoints` makes files.

The folders are written and read here with JSON and numpy alone, from the tensors of a file. Each
process of `divided` holds equally many rows of each tensor, as with fsdp.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torture.bad_checkpoints import (
    differences,
    entries,
    flipped,
    joined,
    lengths,
    newest,
    short,
    split,
    tensors_of,
)
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.hostile_values import JSON_VALUES

from errors import UserError
from training.checkpoint import read

INDEX, OFFSETS = "checkpoint.json", "DCP_SHARDING_INFO"
SHARD = "shard-0000{}-model-00001-of-00001.safetensors"
TYPES = {"float32": "F32", "uint8": "U8"}
Files = dict[str, bytes]  # the content of each file of a folder
Part = tuple[int, np.ndarray]  # its first row in the whole tensor, and its rows


def metadata_of(content: bytes) -> dict[str, Any]:
    """Return the metadata of a checkpoint file."""
    metadata: dict[str, Any] = json.loads(split(content)[0]["__metadata__"]["breeze"])
    return metadata


def divided(content: bytes, processes: int = 2) -> Files:
    """Return the folder for a checkpoint file whose rows were divided among processes."""
    parts: list[dict[str, Part]] = [{} for _ in range(processes)]
    for name, array in tensors_of(content).items():
        n = len(array) if name == "tokenizer" else -(-len(array) // processes)
        for number in range(-(-len(array) // n)):
            parts[number][name] = (number * n, array[number * n : (number + 1) * n])
    return sealed([shard_of(held) for held in parts], content)


def shard_of(parts: dict[str, Part]) -> bytes:
    """Return the file of one process."""
    places = {name: {"saved_offsets": [start] + [0] * (array.ndim - 1)}
              for name, (start, array) in parts.items()}  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"format": "pt", OFFSETS: json.dumps(places)}}
    body = b""
    for name, (_, array) in parts.items():
        end = len(body) + array.nbytes
        header[name] = {"dtype": TYPES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [len(body), end]}  # fmt: skip
        body += array.tobytes()
    return joined(header, body)


def sealed(shards: list[bytes], content: bytes, **changes: Any) -> Files:
    """Return the folder with these shards, and an index with their hashes. `changes` replace parts
    of the index."""
    files = {SHARD.format(number): shard for number, shard in enumerate(shards, 1)}
    tensors = {name: [TYPES[array.dtype.name], list(array.shape)]
               for name, array in tensors_of(content).items()}  # fmt: skip
    index = {"metadata": metadata_of(content), "tensors": tensors,
             "files": {name: hash_of(shard) for name, shard in files.items()}}  # fmt: skip
    return files | {INDEX: json.dumps(index | changes).encode()}


def hash_of(shard: bytes) -> str:
    """Return the hash that the index lists for a shard: zeros if its header cannot be parsed."""
    try:
        header, body = split(shard)
        return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + body).hexdigest()
    except (ValueError, RecursionError, UnicodeError):
        return "0" * 64


def assembled(files: Files) -> dict[str, np.ndarray]:
    """Join the parts of all shards, as an independent reader."""
    parts: dict[str, list[Part]] = {}
    for shard in (content for name, content in files.items() if name != INDEX):
        places = json.loads(split(shard)[0]["__metadata__"][OFFSETS])
        for name, array in tensors_of(shard).items():
            parts.setdefault(name, []).append((places[name]["saved_offsets"][0], array))
    return {
        name: np.concatenate([array for _, array in sorted(held, key=lambda part: part[0])])
        for name, held in parts.items()
    }


def written(folder: Path, files: Files, named_for: bytes | None = None) -> Path:
    """Write a folder, whose name carries the hash of its index, or of another one."""
    digest = hashlib.sha256(named_for or files[INDEX]).hexdigest()[:16]
    path = folder / f"step-00000005-{digest}.sharded"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def use(folder: Path, files: Files) -> str | None:
    """Open a folder as sampling and resuming do; return what differs from `assembled`."""
    path = written(folder, files)
    try:
        return differences(path, lambda: assembled(files))
    finally:
        shutil.rmtree(path)


# ------------------------------------------------------------------- damage that the hash tells


def _damaged(files: Files, fast: bool) -> Iterator[tuple[str, Files]]:
    """Flip bits of each file and cut it, take it away, swap it, or add one."""
    step = 4_000 if fast else 37
    for file, content in files.items():
        for place in range(0, len(content), step):
            yield (
                f"{file}: bit of byte {place} flipped",
                files | {file: flipped(content, place, place % 8)},
            )
        for size in range(0, len(content), 7 * step):
            yield f"{file}: cut to {size} bytes", files | {file: content[:size]}
        yield f"{file}: longer", files | {file: content + b" "}
        yield f"no {file}", {name: files[name] for name in files if name != file}
        for other in files:
            if other != file:
                yield f"{file}: is {other}", files | {file: files[other]}
    for name in ("note.txt", "model.safetensors.index.json", ".metadata", SHARD.format(3)):
        yield f"{name} added", files | {name: files[SHARD.format(1)]}


OTHERS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("../elsewhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
}


@in_memory
def damaged_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Damage without the right hash: always refused, by name."""
    whole = divided(newest().read_bytes())
    path = written(folder, whole)

    def attempt(key: str, files: Files) -> Attempt:
        def run() -> None:
            read(written(folder, files, whole[INDEX]))

        return Attempt(key, run, sum(map(len, files.values())), path.name, must_refuse=True)

    def replace(file: str, make: Callable[[Path], object]) -> None:
        (written(folder, whole) / file).replace(folder / "elsewhere")
        make(path / file)

    def attempts() -> Iterator[Attempt]:
        for key, files in _damaged(whole, fast):
            yield attempt(key, files)
        for file in whole:
            for what, make in OTHERS.items():
                # A link to the index itself has the right content, and nothing is lost by it.
                refused = (file, what) != (INDEX, "a link")
                run = partial(_read, path)
                prepare = partial(replace, file, make)
                yield Attempt(f"{file}: {what}", run, 0, path.name, refused, prepare)

    return confined(attempts(), folder, partial(_read, path))


def _read(path: Path) -> None:
    read(path)


# ------------------------------------------------------------------- hostile folders


def _in_shards(content: bytes, fast: bool) -> Iterator[tuple[str, Files]]:
    """Change one shard, and make the hashes right."""
    both = [shard for name, shard in divided(content).items() if name != INDEX]
    for number, shard in enumerate(both):
        header, body = split(shard)
        offsets = json.loads(header["__metadata__"][OFFSETS])
        start = len(shard) - len(body)
        step = 400 if fast else 3
        places = (*range(0, start, step), *range(start, len(shard), 101 * step))
        changed = [(f"bit of byte {place} flipped", flipped(shard, place, (place * 3) % 8))
                   for place in places]  # fmt: skip
        changed += [(f"cut to {size}", shard[:size]) for size in range(0, len(shard), 50 * step)]
        changed += [
            *lengths(shard),
            *list(entries(header, body, fast))[number :: 90 if fast else 3],
        ]
        changed += _offsets(header, body, offsets, fast)
        for key, replaced in changed:
            shards = [replaced if n == number else other for n, other in enumerate(both)]
            yield f"shard {number + 1}: {key}", sealed(shards, content)


def _offsets(
    header: dict[str, Any], body: bytes, offsets: dict[str, Any], fast: bool
) -> Iterator[tuple[str, bytes]]:
    """Change where the parts of a shard belong."""

    def around(value: Any) -> bytes:
        return joined({**header, "__metadata__": {**header["__metadata__"], OFFSETS: value}}, body)

    values = JSON_VALUES[::9] if fast else JSON_VALUES
    for value in values:
        yield f"{OFFSETS}: {short(value)}", around(value)
        yield f"JSON in {OFFSETS}: {short(value)}", around(json.dumps(value))
        yield (
            f"more metadata: {short(value)}",
            joined({**header, "__metadata__": {**header["__metadata__"], "other": value}}, body),
        )
    yield f"no {OFFSETS}", joined({**header, "__metadata__": {"format": "pt"}}, body)
    for number, (name, entry) in enumerate(offsets.items()):
        if fast and number % 16:
            continue
        first, *rest = entry["saved_offsets"]
        places = [
            [first + 1, *rest], [first - 1, *rest], [-first - 1, *rest], [float(first), *rest],
            [str(first), *rest], [bool(first), *rest], [first], [first, *rest, 0], [], [rest],
            [first, *[1] * len(rest)], [first, *[False] * len(rest)], [0, *rest], [1 << 40, *rest],
            [first, *[0.0] * len(rest)], [1 << 64, *rest], [9e999, *rest], [None, *rest],
        ]  # fmt: skip
        for place in dict.fromkeys(map(json.dumps, places)):
            if place != json.dumps(entry["saved_offsets"]):
                changed = {**offsets, name: {"saved_offsets": json.loads(place)}}
                yield f"{name} at {place}", around(json.dumps(changed))
        for value in values[::5]:
            yield f"{name} {short(value)}", around(json.dumps({**offsets, name: value}))
        lacking = {other: offsets[other] for other in offsets if other != name}
        yield f"{name} without a place", around(json.dumps(lacking))
        twice = f"{json.dumps(offsets)[:-1]}, {json.dumps(name)}: {json.dumps(entry)}}}"
        yield f"twice: place of {name}", around(twice)


def _in_index(content: bytes, fast: bool) -> Iterator[tuple[str, Files]]:
    """Change the index; the shards stay."""
    files = divided(content)
    shards = [shard for name, shard in files.items() if name != INDEX]
    index = json.loads(files[INDEX])
    values = JSON_VALUES[::9] if fast else JSON_VALUES
    for key, inside in index.items():
        for value in values:
            yield f"{key}: {short(value)}", sealed(shards, content, **{key: value})
        for number, name in enumerate([*inside, "more", "", "../x", "/dev/zero", "\ud800"]):
            if fast and number % 7:
                continue
            for value in values if key != "tensors" else values[number % 4 :: 4]:
                changed = {**inside, name: value}
                yield f"{key} {name}: {short(value)}", sealed(shards, content, **{key: changed})
            lacking = {other: inside[other] for other in inside if other != name}
            if name in inside:
                yield f"{key} without {name}", sealed(shards, content, **{key: lacking})
                twice = json.dumps(inside)[:-1] + f", {json.dumps(name)}: 1}}"
                text = json.dumps(index).replace(json.dumps(inside), twice)
                yield f"twice: {key} {name}", files | {INDEX: text.encode()}


def _index_texts(content: bytes) -> Iterator[tuple[str, Files]]:
    """Change the text of the index: what JSON allows, and what it does not."""
    files = divided(content)
    text = files[INDEX]
    for name, changed in {
        "empty": b"", "byte order mark": b"\xef\xbb\xbf" + text, "two values": text * 2,
        "nested lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "many small objects": text[:-1] + b',"a":[' + b"{}," * 9_000_000 + b"{}]}",
        "spaces behind": text + b" " * 9_000, "Latin-1": text + b"\xe9",
        "a number of 300,000 digits": text[:-1] + b',"a":' + b"9" * 300_000 + b"}",
    }.items():  # fmt: skip
        yield f"index: {name}", files | {INDEX: changed}


def _parts(content: bytes) -> Iterator[tuple[str, Files]]:
    """Divide tensors in ways in which no process does."""
    arrays = tensors_of(content)
    whole: dict[str, Part] = {name: (0, array) for name, array in arrays.items()}
    for name, array in arrays.items():
        rows = len(array)
        for key, (first, second) in {
            "a hole": ((0, rows // 2), (rows // 2 + 1, rows)),
            "an overlap": ((0, rows // 2 + 1), (rows // 2, rows)),
            "all of it twice": ((0, rows), (0, rows)),
            "nothing before it": ((0, 0), (0, rows)),
            "nothing before it, in the other": ((0, rows), (0, 0)),
            "the end missing": ((0, rows // 2), (rows // 2, rows - 1)),
        }.items():
            parts = [whole | {name: (first[0], array[slice(*first)])},
                     {name: (second[0], array[slice(*second)])}]  # fmt: skip
            yield f"not {name}: {key}", sealed([shard_of(part) for part in parts], content)
        columns = [shard_of(whole | {name: (0, array[..., :1])}), shard_of({})]
        yield f"not {name}: a column", sealed(columns, content)
        scalar = [shard_of(whole | {name: (0, array.reshape(-1)[0])}), shard_of({})]
        yield f"not {name}: a number", sealed(scalar, content)


def _agreed(content: bytes) -> Iterator[tuple[str, Files]]:
    """Change shards and the index alike, so that only the content can be refused."""
    files = divided(content)
    shards = [shard for name, shard in files.items() if name != INDEX]
    index = json.loads(files[INDEX])

    def added(name: str, dtype: str, shape: list[int], size: int, place: Any) -> bytes:
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
        offsets = json.dumps({name: {"saved_offsets": place}})
        return joined({"__metadata__": {OFFSETS: offsets}, name: entry}, b"\0" * size)

    for dtype, shape, size in (("F4", [2], 1), ("F6_E2M3", [4], 3), ("F8_E8M0", [1], 1),
                               ("F16", [1], 2), ("I64", [1], 8), ("F64", [1], 8)):  # fmt: skip
        tensors = index["tensors"] | {"moments/x": [dtype, shape]}
        shard = added("moments/x", dtype, shape, size, [0])
        yield f"not {dtype} {shape}", sealed([*shards, shard], content, tensors=tensors)
    arrays = tensors_of(content)
    rest = {name: (0, array) for name, array in arrays.items() if name != "tokenizer"}
    for shape in ([4] + [1] * 64, [1 << 62, 0, 8], [0, 1 << 62, 8], [2, 2], [0]):
        size = 4 if 0 not in shape else 0
        tensors = index["tensors"] | {"tokenizer": ["U8", shape]}
        shard = added("tokenizer", "U8", shape, size, [0] * len(shape))
        both = [shard_of(rest), shard]
        yield f"not a tokenizer {shape[:3]}", sealed(both, content, tensors=tensors)
    for text in ("{", "[]", "null", '{"x":1}', "[" * 985, '{"x":' + "[" * 975 + "]" * 975 + "}"):
        shard = joined({"__metadata__": {OFFSETS: text}}, b"")
        yield f"not {OFFSETS} alone: {short(text)}", sealed([*shards, shard], content)
    for name, place in (("x" * 100_000, [3]), ("x" * 99_999, [3, 4]), ("x" * 99_998, [0])):
        tensors = index["tensors"] | {name: ["U8", [1]]}
        shard = added(name, "U8", [1], 1, place)
        yield f"not a name of {len(name)}", sealed([*shards, shard], content, tensors=tensors)
    named = {(name if name != SHARD.format(2) else "x.bin"): shard for name, shard in files.items()}
    hashes = {name: hash_of(shard) for name, shard in named.items() if name != INDEX}
    changed = json.dumps(index | {"files": hashes}).encode()
    yield "not a shard named x.bin", named | {INDEX: changed}


def _valid(content: bytes) -> Iterator[tuple[str, Files]]:
    """Divide tensors among up to 9 processes, some of which hold nothing; or add an empty part."""
    for processes in range(1, 10):
        yield f"{processes} processes", divided(content, processes)
    arrays = tensors_of(content)
    whole = shard_of({name: (0, array) for name, array in arrays.items()})
    for name, array in arrays.items():
        ends = shard_of({name: (len(array), array[:0])})
        yield f"no rows behind {name}", sealed([whole, ends], content)
    for key, names in {"in order": sorted(arrays), "reversed": sorted(arrays)[::-1]}.items():
        shard = shard_of({name: (0, arrays[name]) for name in names})
        yield f"names {key}", sealed([shard], content)


def _must_accept(folder: Path, files: Files) -> str | None:
    try:
        return use(folder, files)
    except UserError as error:
        return f"was refused: {error}"


@in_memory
def hostile_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Damage with right hashes: used as it is, or refused."""
    content = newest().read_bytes()

    def attempts() -> Iterator[Attempt]:
        for key, files in _valid(content):
            size = sum(map(len, files.values()))
            yield Attempt(key, partial(_must_accept, folder, files), size)
        kinds = (_agreed(content), _index_texts(content), _parts(content),
                 _in_shards(content, fast), _in_index(content, fast))  # fmt: skip
        for kind, one_in in zip(kinds, (1, 1, 7, 3, 3) if fast else (1, 1, 1, 5, 5), strict=True):
            for key, files in islice(kind, 0, None, one_in):
                size = sum(map(len, files.values()))
                refused = key.startswith("not ") or "twice: " in key
                yield Attempt(key, partial(use, folder, files), size, str(folder), refused)

    return confined(attempts(), folder, partial(use, folder, divided(content)))


FAMILIES = [
    Family("damaged sharded", "refused in one line that names the folder", damaged_cases),
    Family("hostile sharded", "used as they are, or refused in one line", hostile_cases),
]
