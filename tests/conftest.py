"""Fixtures of all tests. pytest puts this folder on the path: every test can `import reference`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# The tests' tensors are tiny, so a second thread makes them slower on shared cores.
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # read when torch is imported; inherited by child processes


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """Set a cache folder that all tests share, in place of the user's.

    Compiled kernels are named by all that they depend on. So they are built once, for all worker
    processes and all later runs of the tests, in pytest's own cache.
    """
    folder = tmp_path_factory.mktemp("cache")
    assert pytestconfig.cache is not None
    (folder / "native").symlink_to(pytestconfig.cache.mkdir("native"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BREEZE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of made-up English, 20 KB."""
    import tiny

    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(tiny.english(20_000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    """A tiny run of ten steps, not interrupted. Tests must not write to it."""
    import tiny

    run = tmp_path_factory.mktemp("finished") / "run"
    assert tiny.start(run, text) == 0
    return run


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A copy of the finished run, which a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
