"""The size of files and functions, and the docstrings of public functions."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not {"tests", ".venv", "runs", "build"} & set(path.relative_to(ROOT).parts)
]
FILE_LINES, FUNCTION_LINES = 350, 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    """A file could be too long to read, a function too long for a screen."""
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_have_docstrings(path: Path) -> None:
    """A function of other rooms could lack a word on what it returns and raises."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            described = any(ast.unparse(d).startswith("check(") for d in node.decorator_list)
            assert described or ast.get_docstring(node), node.name


def test_the_walk_finds_the_rooms() -> None:
    """A walk that finds no file would pass."""
    rooms = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert rooms >= {"model", "data", "training", "inference", "experiments", "train.py"}
