"""The order of imports in docs/CONTRIBUTING.md ("Where things are"), checked in every file."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "model", "checks", "data", "configs", "training", "inference", "interop", "experiments",
    "scripts",
)  # fmt: skip
FILES = [
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))]
]
FLOOR = {"errors", "storage"}  # every room may import these two

# Room or root file -> the rooms and root files that it may import, beside its own and the floor.
ALLOWED = {
    "errors.py": set(),
    "storage.py": {"errors"},
    "model": FLOOR,
    "data": FLOOR,
    "training": FLOOR,
    "configs": FLOOR | {"model", "data", "training"},
    "checks": FLOOR | {"model"},
    "inference": FLOOR | {"model", "data", "configs", "training"},
    "usual.py": FLOOR | {"data", "configs"},
    "run.py": FLOOR | {"model", "data", "configs", "training", "inference", "usual"},
    "start.py": FLOOR | {"model", "data", "configs", "training", "inference", "run"},
    "summary.py": FLOOR | {"model", "run"},
    "train.py": FLOOR | {"model", "configs", "training", "run", "start", "summary", "arguments"},
    "arguments.py": FLOOR | {"configs", "training", "inference", "interop"},
    "interop": FLOOR | {"model", "data", "configs", "training", "inference"},
    "experiments": {*FLOOR, *ROOMS, "run", "start", "train", "arguments"} - {"scripts"},
    "scripts": {*FLOOR, *ROOMS, "run", "start", "train", "arguments"} - {"experiments"},
}
# Of these rooms only some modules may be imported: (importing room, imported room) -> modules.
NARROW = {
    ("configs", "model"): {"model.config"},  # the rest imports torch, which takes seconds
    ("configs", "data"): {"data.choices"},
    ("configs", "training"): {"training.choices"},
    ("arguments.py", "training"): {"training.checkpoint", "training.run_folder"},
    ("inference", "data"): {"data.tokenizer"},  # inference prepares no text
    # inference needs no optimizer
    ("inference", "training"): {"training.checkpoint", "training.run_folder", "training.device"},
}


def imports(path: Path) -> set[str]:
    """Return the full names of all imports of a file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    """Return the rooms and root files that a file imports, each by the first part of its name."""
    rooms = {*ROOMS, "tests", *(p.stem for p in ROOT.glob("*.py"))}
    return {name.split(".")[0] for name in imports(path)} & rooms


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_only_what_they_may(path: Path) -> None:
    """A room could not be read, tested or replaced without another."""
    room = path.parts[0]
    own = {room} - {"scripts"}  # commands do not import commands
    assert own_imports(path) - own <= ALLOWED[room]
    for (importing, imported), modules in NARROW.items():
        if room == importing:
            found = {name for name in imports(path) if name.split(".")[0] == imported}
            assert all(any(f"{name}.".startswith(f"{module}.") for module in modules)
                       for name in found), found  # fmt: skip


def test_the_walk_finds_imports() -> None:
    """A walk that finds no import would pass every rule."""
    assert "model.kernels.attend" in imports(Path("model/attention.py"))
    assert own_imports(Path("configs/load.py")) >= {"configs", "errors"}
    assert {path.parts[0] for path in FILES} >= {*ROOMS, "train.py", "errors.py", "storage.py"}


@pytest.mark.parametrize(
    "modules", ["configs.load, scripts.plan, train", "model, model.cost, errors"]
)
def test_reading_a_config_does_not_import_torch(modules: str) -> None:
    """`plan`, `--help` and errors in a config would take seconds."""
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def modules_after(code: int, *lines: list[str]) -> set[str]:
    """Run commands, each a module and its arguments, one after another in a new process; return the
    names of all modules that it imported. Each command must end with the exit code `code`."""
    script = (
        "import sys, json, importlib\n"
        f"codes = [importlib.import_module(m).main(line) for m, *line in {lines!r}]\n"
        "print()\n"
        "print(json.dumps([codes, list(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    codes, modules = json.loads(done.stdout.splitlines()[-1])
    assert set(codes) == {code}, done.stdout + done.stderr
    return set(modules)


def test_what_is_wrong_with_a_run_is_reported_without_torch(run: Path, tmp_path: Path) -> None:
    """Torch takes more than a second: a wrong name must be reported at once."""
    nowhere, out = str(tmp_path / "nowhere"), str(tmp_path / "x.safetensors")
    commands = ["scripts.sample", "scripts.evaluate", "scripts.verify", "experiments.recall",
                "experiments.judge", "experiments.position", "experiments.reach",
                "experiments.trace", "experiments.movie", "scripts.lm_eval"]  # fmt: skip
    lines = [[command, nowhere] for command in commands]
    lines += [["scripts.strip", nowhere, "--out", out], ["train", str(run)]]
    lines += [["experiments.sinks", "--runs", nowhere]]
    found = modules_after(2, *lines)
    assert "training.checkpoint" in found and "torch" not in found


def test_commands_import_only_what_they_use(finished: Path, tmp_path: Path) -> None:
    """Torch's compiler takes a second to import, `datasets` another; to sample needs no training
    code. They could come in unnoticed, through another module."""
    heavy = {"torch._dynamo", "torch._inductor", "sympy", "datasets", "transformers", "pandas"}
    unused = {"run", "data.text", "data.prepare", "data.sources", "training.optimizer",
              "training.muon"}  # fmt: skip
    line = ["scripts.sample", str(finished), "--prompt", "a", "--max-tokens", "2"]
    sampled = modules_after(0, line)
    assert "torch" in sampled
    assert sampled & (heavy | unused) == set()
    # torch's own optimizers import its compiler
    unused = {"datasets", "transformers", "pandas", "checks", "inference.trained"}
    trained = modules_after(0, ["train", str(finished), f"run_dir={tmp_path}", "train.max_steps=2"])
    assert "run" in trained
    assert trained & unused == set()
