"""Files that carry code, in every place where a file is read: none of it may run.

Every payload would write a file, the canary. The audit hook of `torture.confined` also notes every
import, exec, unpickling, process and socket while a file is read. Archives that unpack to a
thousand times their size are here too: their memory is measured like that of every input.
"""

import gzip
import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import safetensors.numpy
from torture.bad_checkpoints import joined, split
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.subject import trained

from configs.load import load_config
from data.sources.open import open_source
from data.tokenizer import open_tokenizer
from errors import UserError
from interop.huggingface_import import open_folder
from scripts import sample
from training.checkpoint import read
from training.metrics import read_metrics

# Texts are read in sections, and tables by lines of at most 64 MB: so much memory is needed,
# however small the archive is.
PIECES = 64_000_000
Reader = Callable[[Path], object]


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _payloads(canary: Path) -> dict[str, bytes]:
    """Return files that write `canary` if a reader runs what is in them."""
    code = f"open({str(canary)!r}, 'w').close()"
    calls = {
        "exec": _Calls(exec, code), "eval": _Calls(eval, code), "open": _Calls(open, canary, "w"),
        "system": _Calls(__import__("os").system, f"touch {canary}"),
        "import": _Calls(__import__, "this"), "popen": _Calls(subprocess.Popen, ["touch", canary]),
    }  # fmt: skip
    payloads: dict[str, bytes] = {}
    for name, call in calls.items():
        for protocol in (0, 2, 4):
            payloads[f"pickle {protocol} {name}"] = pickle.dumps(call, protocol)
    whole = pickle.dumps({"model": calls["exec"]})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", whole)
        file.writestr("archive/version", "3")
    payloads["torch.save archive"] = archive.getvalue()
    array = io.BytesIO()
    np.save(array, np.array([calls["exec"]], dtype=object), allow_pickle=True)
    payloads["npy of objects"] = array.getvalue()
    payloads["pickle in a header"] = joined(whole, whole)
    payloads["YAML apply"] = f"x: !!python/object/apply:builtins.exec [{json.dumps(code)}]".encode()
    payloads["YAML new"] = f"!!python/object/new:os.system ['touch {canary}']".encode()
    payloads["YAML module"] = b"!!python/module:this"
    payloads["Python"] = f"{code}\n".encode()
    payloads["Python in JSON"] = json.dumps(
        {"text": code, "__class__": code, "auto_map": code}
    ).encode()
    payloads["shell"] = f"#!/bin/sh\ntouch {canary}\n".encode()
    payloads["Jinja"] = (
        f"{{{{ cycler.__init__.__globals__.os.system('touch {canary}') }}}}".encode()
    )
    payloads["XML entity"] = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'
    return payloads


def _used(reader: Reader, path: Path, canary: Path) -> str | None:
    """Read a file; return whether its code ran."""
    try:
        reader(path)
    except UserError:
        pass
    finally:
        ran = canary.exists()
        canary.unlink(missing_ok=True)
    return "the code in it ran" if ran else None


def _documents(path: Path) -> None:
    """Read a text as training does."""
    source = open_source("files", path=str(path))
    for number in range(source.n_chunks):
        for _ in source.chunk(number):
            pass


def _source_of(path: Path) -> Any:
    return open_source("files", path=str(path))


def _sampled(path: Path) -> None:
    code = sample.main([str(path), "--prompt", "a", "--max-tokens", "2"])
    assert code in (0, 2), code


READERS: dict[str, Reader] = {
    "checkpoint": read,
    "sample": _sampled,
    "config": load_config,
    "tokenizer": lambda path: open_tokenizer(path.read_bytes()),
    "prompt": lambda path: sample.main(
        [str(trained() / "run"), "--prompt-file", str(path), "--max-tokens", "2"]
    ),
    "metrics": read_metrics,
    "text": _documents,
}
NAMES = {
    "checkpoint": ["x.safetensors", "x.pt", "x.ckpt", "HASH"],
    "sample": ["x.safetensors", "x.bin", "HASH"],
    "config": ["x.yaml", "x.py"],
    "tokenizer": ["tokenizer.model", "tokenizer.json"],
    "prompt": ["x.txt", "x.pkl"],
    "metrics": ["metrics.jsonl"],
    "text": ["x.txt", "x.jsonl", "x.json", "x.csv", "x.tsv", "x.parquet", "x.py", "x.pkl", "x.npy",
             "x.pt", "x.gz", "x.zst", "x.jsonl.gz", "x.html", "x.xml"],
}  # fmt: skip


def _in_files(folder: Path, canary: Path, fast: bool) -> Iterator[Attempt]:
    """Give each payload to each reader, under each name."""
    for number, (kind, content) in enumerate(_payloads(canary).items()):
        for reader, names in NAMES.items():
            for name in names:
                if fast and (number + len(name)) % 9:
                    continue
                digest = hashlib.sha256(content).hexdigest()[:16]
                name = name.replace("HASH", f"step-00000001-{digest}.safetensors")
                path = folder / "place" / name
                run = partial(_used, READERS[reader], path, canary)
                yield Attempt(f"{reader}: {kind} as {name[:13]}", run, len(content),
                              prepare=partial(_write, path, content))  # fmt: skip


def _write(path: Path, content: bytes) -> None:
    """Write a file in an empty folder."""
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def _in_checkpoints(folder: Path, canary: Path) -> Iterator[Attempt]:
    """Put each payload into a checkpoint with the right hash: as tokenizer, name and metadata."""
    content = max((trained() / "run/checkpoints").iterdir()).read_bytes()
    header, body = split(content)
    start, end = header["tokenizer"]["data_offsets"]
    for kind, payload in _payloads(canary).items():
        inside = (payload + bytes(end - start))[: end - start]
        text = payload.decode("latin-1")
        strings = header["__metadata__"] | {"x": text}
        files = {
            "tokenizer": joined(header, body[:start] + inside + body[end:]),
            "metadata": joined(header | {"__metadata__": strings}, body),
            "name": joined(header | {text: header["tokenizer"]}, body),
        }
        for place, file in files.items():
            digest = hashlib.sha256(file).hexdigest()[:16]
            path = folder / "place" / f"step-00000005-{digest}.safetensors"
            run = partial(_used, _sampled, path, canary)
            yield Attempt(f"{kind} as {place} of a checkpoint", run, len(file),
                          prepare=partial(_write, path, file))  # fmt: skip


def _in_folders(folder: Path, canary: Path) -> Iterator[Attempt]:
    """Put code into folders of Hugging Face and of runs."""
    code = f"open({str(canary)!r}, 'w').close()\n"
    config = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 8,
              "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "intermediate_size": 8, "vocab_size": 270, "rms_norm_eps": 1e-5}  # fmt: skip
    remote = {"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model",
                           "AutoTokenizer": ["code.Tokenizer", None]}}  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "auto_map": remote, "trust_remote_code": {"trust_remote_code": True} | remote,
        "another class": {"architectures": ["code.Model"]} | remote,
        "a type": {"model_type": "code"},
        "a billion layers": {"num_hidden_layers": 2**30}, "layers": {"num_hidden_layers": 10_000},
        "wide": {"hidden_size": 2**30}, "a tokenizer class": {"tokenizer_class": "code.Tokenizer"},
        "many heads": {"num_attention_heads": 2**30}, "a template": {"chat_template": "{{ 1/0 }}"},
        "a vocabulary": {"vocab_size": 2**30}, "nan": {"rms_norm_eps": float("nan")},
        "pickled weights": {}, "no weights": {},
    }  # fmt: skip
    weights = safetensors.numpy.save({"model.norm.weight": np.ones(8, np.float32)})
    for name, change in changes.items():

        def prepare(change: dict[str, Any] = change, name: str = name) -> None:
            place = folder / "place"
            _write(place / "config.json", json.dumps(config | change).encode())
            for module in ("code", "modeling_code", "torch", "sitecustomize", "conftest", "setup"):
                (place / f"{module}.py").write_text(code)
            (place / "tokenizer_config.json").write_text(json.dumps(remote | change))
            bad = pickle.dumps(_Calls(exec, code))
            (place / "pytorch_model.bin").write_bytes(bad)
            if name != "no weights":
                is_pickle = name == "pickled weights"
                (place / "model.safetensors").write_bytes(bad if is_pickle else weights)

        readers = {"import": open_folder, "sample": _sampled, "text": _documents}
        for reader, function in readers.items():
            run = partial(_used, function, folder / "place", canary)
            yield Attempt(f"{reader}: a folder with {name}", run, 10_000, prepare=prepare)


def _bombs(folder: Path) -> Iterator[Attempt]:
    """Give archives that unpack to 200 MB: opening them may take little memory."""
    size = 200_000_000
    contents: dict[str, tuple[bytes, int]] = {
        "zeros": (bytes(10**6), size // 10**6), "letters": (b"x" * 10**6, size // 10**6),
        "lines": (b"the old kite\n" * 77_000, 20), "rows": (b'{"text": "kite"}\n' * 60_000, 20),
    }  # fmt: skip
    for kind, (piece, times) in contents.items():
        for ending in (".txt.gz", ".jsonl.gz", ".txt.zst", ".csv.gz"):

            def prepare(ending: str = ending, piece: bytes = piece, times: int = times) -> None:
                _write(folder / "place" / f"x{ending}", b"")
                with (folder / "place" / f"x{ending}").open("wb") as raw:
                    zst = ending.endswith("zst")
                    out: Any = (
                        pyarrow.CompressedOutputStream(raw, "zstd")
                        if zst
                        else gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1)
                    )
                    with out:
                        for _ in range(times):
                            out.write(piece)

            run = partial(_used, _source_of, folder / "place" / f"x{ending}", folder / "canary")
            yield Attempt(f"bomb of {kind} as {ending}", run, PIECES, prepare=prepare)


@in_memory
def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Code in files of all kinds, in checkpoints, in folders; archives that unpack to much."""
    canary = folder / "canary"

    def attempts() -> Iterator[Attempt]:
        yield from _in_files(folder, canary, fast)
        for number, attempt in enumerate(_in_checkpoints(folder, canary)):
            if not fast or number % 11 == 0:
                yield attempt
        for number, attempt in enumerate(_in_folders(folder, canary)):
            if not fast or number % 5 == 0:
                yield attempt
        if not fast:
            yield from _bombs(folder)

    def warm() -> None:
        """Read a good file of each kind, so that the libraries are imported."""
        rows = b'{"text": "the old kite"}\n' * 9
        packed = pyarrow.compress(rows, codec="zstd", asbytes=True)
        table = pyarrow.table({"text": ["the old kite"]})
        parquet = io.BytesIO()
        __import__("pyarrow.parquet").parquet.write_table(table, parquet)
        for name, content in {
            "x.txt": b"the old kite", "x.jsonl": rows, "x.json": b"[]", "x.csv": b"text\nkite\n",
            "x.gz": gzip.compress(b"the old kite"), "x.jsonl.zst": packed, "x.html": b"<p>kite</p>",
            "x.parquet": parquet.getvalue(), "x.tsv": b"text\nkite\n", "x.pkl": b"\x80\x04.",
        }.items():  # fmt: skip
            _write(folder / "place" / name, content)
            _used(_documents, folder / "place" / name, canary)
        newest = max((trained() / "run/checkpoints").iterdir())
        for reader, path in (("sample", newest), ("prompt", folder / "place/x.pkl")):
            READERS[reader](path)
        _write(folder / "place/config.json", b"{}")
        _used(open_folder, folder / "place", canary)

    return confined(attempts(), folder, warm, 2 if fast else 1)


def can_find(folder: Path) -> bool:
    """Return whether the hook notes an unpickling: one that notes nothing would prove nothing."""
    path = folder / "x"
    path.write_bytes(pickle.dumps(_Calls(exec, "1")))
    attempt = Attempt("unpickled", lambda: pickle.loads(path.read_bytes()) and None)
    (case,) = confined([attempt], folder)
    return case.failure is not None


FAMILIES = [Family("no code runs", "no code, no process, no socket, little memory", cases)]
assert sys.platform != "win32", "os.fork is needed"
