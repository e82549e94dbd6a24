"""Files are written with `storage.atomic_write`; ALLOWED lists the few exceptions.

(tests/data/test_storage.py tests `atomic_write` itself.)
"""

import ast
from pathlib import Path

import pytest

from storage import atomic_write

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "checks",
    "configs",
    "data",
    "experiments",
    "inference",
    "interop",
    "model",
    "scripts",
    "training",
)
SOURCES = sorted(
    path
    for path in [
        *ROOT.glob("*.py"),
        *(path for name in ROOMS for path in (ROOT / name).rglob("*.py")),
    ]
    if path.name != "storage.py"
)
WRITES = {"write_text", "write_bytes", "savez", "savetxt", "tofile", "save_file", "save_model",
          "to_csv", "to_json", "copyfile", "move"}  # fmt: skip
PICKLES = {"pickle", "shelve", "marshal", "joblib", "dill", "cloudpickle"}
ALLOWED = {
    ("training/metrics.py", "open 'a'"): 2,  # metrics.jsonl and samples.txt
    ("training/distributed.py", "open 'a'"): 1,  # to /dev/null: the processes that are silent
    ("experiments/train_runs.py", "open 'wb'"): 1,  # the output of a training, as it comes
    (
        "experiments/process_memory.py",
        "write_text",
    ): 1,  # to /proc: resets the peak of memory
}


def writes_in(source: str) -> list[str]:
    """Return the calls and imports in a module that write a file without `storage`, or use
    pickle."""
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            out += [f"import {name}" for name in names if name.split(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = getattr(getattr(function, "value", None), "id", "")
        if name in ("open", "fdopen"):
            texts = [word.value for word in [*node.args, *(k.value for k in node.keywords)]
                     if isinstance(word, ast.Constant) and isinstance(word.value, str)]  # fmt: skip
            out += [
                f"open {mode!r}"
                for mode in texts
                if set(mode) <= set("rwaxbt+") and set(mode) & set("wax+")
            ]
        elif name in WRITES:
            out.append(name)
        elif owner in ("np", "numpy", "torch", "pickle") and name in ("save", "load", "dump"):
            out.append(f"{owner}.{name}")
        elif owner == "yaml" and name in ("load", "unsafe_load", "full_load"):
            out.append(f"yaml.{name}")
    return out


def test_the_search_finds_writes() -> None:
    """A search that finds nothing would pass every module."""
    for line in (
        "open('x', 'w')", "p.open(mode='a')", "open(p, 'xb')", "p.open('r+b')", "p.write_text('')",
        "p.write_bytes(b'')", "np.save('x', a)", "torch.save(a, 'x')", "torch.load('x')",
        "import pickle", "from pickle import loads", "yaml.load(t)", "os.fdopen(1, 'w')",
    ):  # fmt: skip
        assert writes_in(line), line
    for line in (
        "open('file')",
        "p.open('rb')",
        "safe_open(p, framework='pt')",
        "yaml.safe_load(t)",
    ):
        assert not writes_in(line), line


def test_no_other_code_writes() -> None:
    """A kill could leave a torn file; reading a pickle could run code."""
    assert len(SOURCES) > 25
    seen: dict[tuple[str, str], int] = {}
    for path in SOURCES:
        for what in writes_in(path.read_text(encoding="utf-8")):
            key = (path.relative_to(ROOT).as_posix(), what)
            seen[key] = seen.get(key, 0) + 1
    assert seen == ALLOWED


def test_replaced_content_is_whole_for_a_reader(tmp_path: Path) -> None:
    """A process that has the file open must still read the earlier content."""
    path = tmp_path / "a"
    atomic_write(path, b"old" * 1000)
    with path.open("rb") as reader:
        atomic_write(path, (b"new" for _ in range(10)))
        assert reader.read() == b"old" * 1000
    assert path.read_bytes() == b"new" * 10
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_in_its_place_is_an_error_without_leftovers(tmp_path: Path) -> None:
    """An error in the rename must not leave the temporary file."""
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic_write(tmp_path / "a", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
