"""Damaged checkpoints (the hash in the name tells) and hostile ones (with the right hash).

A hostile checkpoint must be refused, or its tensors must be what an independent reader of the file
finds: `tensors_of` reads the format with JSON and numpy alone.
"""

import copy
import functools
import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.hostile_values import JSON_VALUES, TEXTS
from torture.subject import trained

from inference.trained import open_checkpoint
from training.checkpoint import read

NAME = "step-{step:08d}-{hash}.safetensors"
TYPES = {"F32": "<f4", "U8": "u1"}


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the tensors' bytes of a file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, body: bytes) -> bytes:
    """Return a file with this header: JSON values, or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def hash_named(folder: Path, content: bytes, step: int = 5) -> Path:
    """Write a file whose name carries the hash of its content."""
    name = NAME.format(step=step, hash=hashlib.sha256(content).hexdigest()[:16])
    path = folder / name
    path.write_bytes(content)
    return path


def tensors_of(content: bytes) -> dict[str, np.ndarray]:
    """Read the tensors of a valid file, without the product and without safetensors."""
    header, body = split(content)
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], TYPES[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }


@functools.cache
def moment_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the moments that the optimizer of the undamaged run has."""
    tensors = tensors_of(newest().read_bytes())
    return {name: tensor.shape for name, tensor in tensors.items() if name.startswith("moments/")}


def use(content: bytes, folder: Path) -> str | None:
    """Open a file as sampling and resuming do; return what differs from an independent reader."""
    path = hash_named(folder, content)
    try:
        return differences(path, lambda: tensors_of(content))
    finally:
        path.unlink()


def differences(path: Path, expected: Callable[[], dict[str, np.ndarray]]) -> str | None:
    """Open a checkpoint as sampling and resuming do; return what differs from `expected`, which is
    called if the checkpoint is accepted."""
    checkpoint = read(path)
    found = dict(open_checkpoint(checkpoint).model.named_parameters())
    moments = {name: torch.empty(shape) for name, shape in moment_shapes().items()}
    checkpoint.refuse_other_moments(moment_shapes())
    checkpoint.read_into(moments)
    tokenizer, tensors = checkpoint.tokenizer(), expected()
    if tensors.pop("tokenizer").tobytes() != tokenizer:
        return "the tokenizer is not the file's"
    for name, tensor in (found | moments).items():
        if not np.isfinite(tensors[name]).all():
            return f"{name} is not finite and was accepted"
        if tensor.detach().numpy().tobytes() != tensors.pop(name).tobytes():
            return f"{name} is not what the file holds"
    return f"not read: {sorted(tensors)}" if tensors else None


# ------------------------------------------------------------------- damage that the hash tells


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """Return the content with one bit of the byte at `place` flipped."""
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def _damaged(content: bytes, name: str, folder: Path, fast: bool) -> Iterator[Attempt]:
    """Flip bits and cut the file, and keep its name."""

    def attempt(key: str, damaged: bytes) -> Attempt:
        def run() -> None:
            path = folder / name
            path.write_bytes(damaged)
            read(path)

        return Attempt(key, run, len(damaged), name, must_refuse=True)

    header = 8 + int.from_bytes(content[:8], "little")
    step = 97 if fast else 1
    places = [*range(0, header, step), *range(header, len(content), 25 * step)]
    for place in places:
        yield attempt(f"bit of byte {place} flipped", flipped(content, place, place % 8))
    for size in [*range(0, header, 8 * step), *range(header, len(content), 70 * step)]:
        yield attempt(f"cut to {size} bytes", content[:size])
    for extra in (b"\0", b"x", content):
        yield attempt(f"{len(extra)} bytes {extra[:1]!r} appended", content + extra)
    for other in (b"", b"\0" * len(content), content[::-1], content[8:], content[1:]):
        yield attempt(f"replaced by {len(other)} bytes {other[:4]!r}", other)


# ------------------------------------------------------------------- hostile files


def _bytewise(content: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Flip bits and cut the file anywhere, hash made right."""
    header = 8 + int.from_bytes(content[:8], "little")
    step = 131 if fast else 1
    for place in range(0, header, step):
        yield f"bit of byte {place} flipped", flipped(content, place, (place * 3) % 8)
    for place in range(header, len(content), 101 * step):
        yield f"bit of byte {place} flipped", flipped(content, place, place % 8)
    for size in [*range(0, header, 53 * step), *range(header, len(content), 501 * step)]:
        yield f"cut to {size} bytes", content[:size]


def lengths(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Change the length of the header."""
    length = int.from_bytes(content[:8], "little")
    near = (length + d for d in (-9, -1, 1, 2, 8, 100))
    powers = ((1 << n) - d for n in (16, 27, 31, 32, 33, 40, 48, 62, 63, 64) for d in (1, 2))
    for number in sorted({*range(10), *near, *powers, len(content), len(content) - 8}):
        if number != length:
            yield f"header length {number}", struct.pack("<Q", number) + content[8:]


def entries(header: dict[str, Any], body: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Change dtype, shape, offsets or name of each tensor."""
    names = [name for name in header if name != "__metadata__"]
    for number, name in enumerate(names):
        if fast and number % 9:
            continue
        entry = header[name]
        start, end = entry["data_offsets"]
        shape = entry["shape"]
        offsets = [
            [0, 0], [end, start], [start + 1, end], [start, end + 1], [start + 4, end + 4],
            [start, len(body) + 4], [-4, end], [start, 1 << 62], [1 << 64, 1 << 65], [start],
            [start, end, end], [float(start), float(end)], [str(start), str(end)],
        ]  # fmt: skip
        shapes = [
            [], [0], [*shape, 1], [1, *shape], [shape[0] + 1, *shape[1:]], [*shape, 0], [-1],
            [1 << 62, 4], [1 << 63], [1 << 64], [1 << 32, 1 << 32], [float(shape[0])], [[*shape]],
            [True], [int(np.prod(shape))] * 2, shape * 9,
        ]  # fmt: skip
        types = ["F16", "BF16", "F64", "I32", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "f32",
                 "", "F32 ", "\ud800"]  # fmt: skip
        changes = [("data_offsets", value) for value in offsets]
        changes += [("shape", value) for value in shapes if value != shape]
        changes += [("dtype", value) for value in types if value != entry["dtype"]]
        changes += [(key, value) for key in entry for value in (None, {}, "x", 3, True, [None])]
        for key, value in changes:
            changed = {**header, name: {**entry, key: value}}
            yield f"{name}: {key} {json.dumps(value)}", joined(changed, body)
        for key in entry:
            lacking = {k: v for k, v in entry.items() if k != key}
            yield f"{name}: no {key}", joined({**header, name: lacking}, body)
        yield f"{name}: surplus key", joined({**header, name: {**entry, "code": "x"}}, body)
        for value in (None, [], 3, "x", {}):
            yield f"{name}: is {json.dumps(value)}", joined({**header, name: value}, body)
        lacking = {k: v for k, v in header.items() if k != name}
        yield f"{name}: removed", joined(lacking, body)
        for other in ("", "x", "\ud800", "../../x", "a\nb", "moments/x.y", "moments/", "é" * 3):
            yield f"{name}: named {other!r}", joined({**lacking, other: entry}, body)
        if name != "tokenizer":
            second = f"moments/{name.removeprefix('moments/')}.\ud800"
            yield f"{name}: also a moment", joined({**header, second: entry}, body)
        twice = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}"
        yield f"twice: {name}", joined(twice.encode(), body)


def _metadata(header: dict[str, Any], body: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Change the metadata: each key, each setting of the config, and what is around them."""

    def around(metadata: Any) -> bytes:
        return joined({**header, "__metadata__": {"breeze": json.dumps(metadata)}}, body)

    metadata = json.loads(header["__metadata__"]["breeze"])
    values = JSON_VALUES[::6] if fast else JSON_VALUES
    for key in {**metadata, "imported_from": None, "unknown": None}:
        for value in values:
            yield f"metadata {key}: {short(value)}", around({**metadata, key: value})
        yield f"metadata without {key}", around({k: v for k, v in metadata.items() if k != key})
    config = metadata["config"]
    for section, settings in config.items():
        for key in settings if isinstance(settings, dict) else [None]:
            if fast and key and len(key) % 5:
                continue
            for value in JSON_VALUES[::30] if fast else JSON_VALUES:
                changed = copy.deepcopy(metadata)
                inside = changed["config"] if key is None else changed["config"][section]
                inside[section if key is None else key] = value
                yield f"config {section}.{key}: {short(value)}", around(changed)
    for windows in ([0], [1 << 62] * 2, [8], [8, 8, 8], [None, 8], [], [-1, 8], [1.5, 8], ["8"]):
        for schedule in ("constant", "grow", "depth", "random"):
            changed = copy.deepcopy(metadata)
            changed["config"]["train"] |= {"window_schedule": schedule, "window_steps": 1,
                                           "window_choices": [4]}  # fmt: skip
            changed["windows"] = windows
            yield f"windows {windows} of {schedule}", around(changed)
            del changed["windows"]
            yield f"no windows, but for {windows} of {schedule}", around(changed)
    for value in values:
        yield (
            f"breeze: {short(value)}",
            joined({**header, "__metadata__": {"breeze": value}}, body),
        )
        yield f"__metadata__: {short(value)}", joined({**header, "__metadata__": value}, body)
        other = {**header["__metadata__"], "other": value}
        yield f"more metadata: {short(value)}", joined({**header, "__metadata__": other}, body)


def _texts(header: dict[str, Any], body: bytes) -> Iterator[tuple[str, bytes]]:
    """Change the text of the header: what JSON allows, and what it does not."""
    text = json.dumps(header)
    breeze = header["__metadata__"]["breeze"]
    variants: dict[str, bytes] = {
        "spaces before": b" " + text.encode(), "spaces after": text.encode() + b" " * 9,
        "byte order mark": text.encode("utf-8-sig"), "UTF-16": text.encode("utf-16"),
        "UTF-32": text.encode("utf-32"), "Latin-1": text.encode() + b"\xe9",
        "a trailing comma": text[:-1].encode() + b",}", "a comment": text.encode() + b"//",
        "two values": text.encode() * 2, "single quotes": text.replace('"', "'").encode(),
        "nested lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "nested objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "a number of 5,000 digits": text[:-1].encode() + b',"a":' + b"9" * 5_000 + b"}",
        "a number of 300,000 digits": text[:-1].encode() + b',"a":' + b"9" * 300_000 + b"}",
        "many small objects": text[:-1].encode() + b',"a":[' + b"{}," * 900_000 + b"{}]}",
        "many names": text[:-1].encode() + b"".join(b',"%d":{}' % n for n in range(90_000)) + b"}",
        "a long name": text[:-1].encode() + b',"' + b"x" * 900_000 + b'":{}}',
        "a zero byte": text.encode().replace(b'"shape"', b'"sha\0pe"', 1),
    }  # fmt: skip
    for name in ("NaN", "Infinity", "-Infinity", "1e999", "-0", "1E400"):
        variants[f"a number {name}"] = f'{text[:-1]}, "x": {name}}}'.encode()
    for key in json.loads(breeze):
        twice = {**header, "__metadata__": {"breeze": f'{breeze[:-1]},"{key}":1}}'[:-1]}}
        variants[f"twice: {key} in breeze"] = json.dumps(twice).encode()
    again = f'{text[:-1]}, "__metadata__": {json.dumps(header["__metadata__"])}}}'
    variants["twice: __metadata__"] = again.encode()
    inside = f'"breeze": {json.dumps(breeze)}'
    variants["twice: breeze"] = text.replace(inside, f"{inside}, {inside}").encode()
    for depth in (100, 5_000, 100_000):
        deep = {**header, "__metadata__": {"breeze": "[" * depth + "]" * depth}}
        variants[f"breeze nested {depth} deep"] = json.dumps(deep).encode()
    for key, value in variants.items():
        yield key, joined(value, body)


def _tokenizers(header: dict[str, Any], body: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Damage the tokenizer inside."""
    start, end = header["tokenizer"]["data_offsets"]
    for place in range(start, end, 400 if fast else 7):
        changed = flipped(body, place, place % 8)
        yield f"tokenizer: bit of byte {place - start} flipped", joined(header, changed)


def _in_weights(header: dict[str, Any], body: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Put a number that is not finite into each weight and each moment, first and last."""
    for name, entry in header.items():
        if name in ("__metadata__", "tokenizer"):
            continue
        start, end = entry["data_offsets"]
        for value in (np.nan,) if fast else (np.nan, np.inf, -np.inf):
            for place in (start,) if fast else (start, end - 4):
                number = struct.pack("<f", value)
                changed = body[:place] + number + body[place + 4 :]
                yield f"{value} in {name}, byte {place - start}", joined(header, changed)


def short(value: Any) -> str:
    """Return a value as JSON; a long one as its beginning and a hash, which keeps keys distinct."""
    text = json.dumps(value)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return text if len(text) < 60 else f"{text[:40]}... {digest}"


def hostile(content: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Yield (key, content) of all hostile files."""
    header, body = split(content)
    yield from _bytewise(content, fast)
    yield from lengths(content)
    yield from entries(header, body, fast)
    yield from _metadata(header, body, fast)
    yield from _texts(header, body)
    yield from _tokenizers(header, body, fast)
    yield from _in_weights(header, body, fast)
    for text in TEXTS:
        yield f"text {text[:20]!r} of {len(text)}", text.encode("utf-8", "surrogatepass")


def newest() -> Path:
    """Return the last checkpoint of the undamaged run."""
    return max((trained() / "run/checkpoints").iterdir())


@in_memory
def damaged_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Damage without the right hash: always refused, by name."""
    path = newest()
    return confined(
        _damaged(path.read_bytes(), path.name, folder, fast), folder, partial(read, path)
    )


@in_memory
def hostile_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Damage with the right hash: used as it is, or refused."""
    content = newest().read_bytes()
    not_allowed = ("twice: ", "nan in ", "inf in ", "-inf in ")

    def attempts() -> Iterator[Attempt]:
        for key, changed in hostile(content, fast):
            run: Callable[[], str | None] = partial(use, changed, folder)
            yield Attempt(key, run, len(changed), str(folder), key.startswith(not_allowed))

    return confined(attempts(), folder, partial(use, content, folder), 5 if fast else 1)


FAMILIES = [
    Family("damaged checkpoints", "refused in one line that names the file", damaged_cases),
    Family("hostile checkpoints", "used as they are, or refused in one line", hostile_cases),
]
