"""Who may know whom: ARCHITECTURE.md, section 1, held by walking the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("model", "data", "configs", "training", "scripts")
FILES = [
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))]
]
COMMANDS = {"train", "run"}  # what wires the rooms together; no room may lean on it

# Room -> modules of the house that it may import beside its own. `scripts` see ALLOWED below.
ALLOWED = {
    "model": {"errors", "storage"},
    "data": {"errors", "storage"},
    "training": {"errors", "storage"},
    "configs": {"errors", "storage", "model"},
    "scripts": {"errors", "storage", "model", "data", "configs", "training", *COMMANDS},
    "errors.py": set(),
    "storage.py": {"errors"},
}


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, in whatever function it does so."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def of_the_house(path: Path) -> set[str]:
    """The rooms and root files among them, by their first name."""
    house = {*ROOMS, "tests", *(p.stem for p in ROOT.glob("*.py"))}
    return {name.split(".")[0] for name in imports(path)} & house


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_only_what_they_may(path: Path) -> None:
    """A room that cannot be read, tested or replaced without another."""
    room = path.parts[0]
    own = {room} - {"scripts"}  # scripts do not import scripts
    if room in ALLOWED:
        assert of_the_house(path) - own <= ALLOWED[room]
    assert "tests" not in of_the_house(path)


def test_configs_know_the_model_by_its_config_only() -> None:
    """Reading a YAML file would import torch."""
    for path in FILES:
        if path.parts[0] == "configs":
            known = {name for name in imports(path) if name.split(".")[0] == "model"}
            assert all(name.startswith("model.config.") for name in known), path


def test_the_walk_sees_what_is_there() -> None:
    """A walk that finds nothing would pass every rule."""
    assert "model.kernels.attend" in imports(Path("model/attention.py"))
    assert of_the_house(Path("configs/schema.py")) >= {"configs", "errors", "model"}
    assert {path.parts[0] for path in FILES} >= {*ROOMS, "train.py", "errors.py", "storage.py"}


@pytest.mark.parametrize("modules", ["configs.schema, scripts.plan", "model, model.cost, errors"])
def test_reading_a_config_does_not_import_torch(modules: str) -> None:
    """`plan`, `--help` and a config's error would take seconds to say a word."""
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
