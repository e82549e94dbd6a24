"""The table of extras counts what pip would install, and says what it cannot know."""

import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from interop import extras
from interop.extras import Addition, additions, closure, installed_size

ROOT = Path(__file__).resolve().parents[2]


def test_a_closure_has_what_is_installed_with_a_package() -> None:
    """A requirement of a requirement that is left out, or one of another platform or extra."""
    assert closure(["tqdm"]) == {"tqdm"}  # colorama: on Windows; slack-sdk: an extra of tqdm
    assert closure(["torch>=2"]) >= {"torch", "sympy", "mpmath"}  # sympy requires mpmath
    assert closure(["torch"]).isdisjoint({"opt-einsum", "expecttest"})  # an extra of torch
    assert "requests" in closure(["tqdm[telegram]"])
    assert closure(["tqdm; python_version < '3'"]) == set()


def test_a_size_is_that_of_the_files() -> None:
    """Bytes of a folder that is not the package's, or a file counted twice."""
    folder = Path(str(distribution("tqdm").locate_file("tqdm")))
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    size = installed_size("tqdm")
    assert size is not None and size >= sum(path.stat().st_size for path in files)
    assert installed_size("no-such-package") is None


def test_every_extra_is_in_the_table_without_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra that is not measured; torch counted in each extra that requires it."""
    monkeypatch.setattr(extras, "installed_size", lambda name: 1)  # 20,000 files take seconds
    found = {each.extra: each for each in additions()}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert found.keys() - {"core"} >= {"export", "eval", "tensorboard", "wandb", "trackio"}
    assert all(f"\n{extra} = [" in text for extra in found.keys() - {"core"})
    core = found["core"].sizes.keys()
    assert "torch" in core
    assert all(each.sizes.keys().isdisjoint(core) for name, each in found.items() if name != "core")


def test_a_package_that_is_missing_is_said_to_be() -> None:
    """A table that reports 0.0 MB as if that were the size."""
    each = Addition("x", {"a": 3_000_000, "b": None, "c": 1_000_000})
    assert each.total == 4_000_000 and each.missing == ["b"]
    assert extras.table([each]).splitlines()[-1] == "| x | 2 | 4.0 | a 3.0, c 1.0 | b |"


def test_an_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback of a missing module."""
    monkeypatch.setattr(sys, "version_info", (3, 10))
    with pytest.raises(ValueError, match=r"needs Python 3\.11"):
        next(additions())
