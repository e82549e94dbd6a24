"""Being here puts this folder on the path, so that every test can `import reference`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# The tests' tensors are tiny: a second thread only waits, for minutes where the cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch, imported later, reads it; processes inherit


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's cache out of the tests: they share one of their own."""
    folder = tmp_path_factory.mktemp("cache")
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
    """A tiny run of ten steps that nobody disturbed. Not to be written to."""
    import tiny

    run = tmp_path_factory.mktemp("finished") / "run"
    assert tiny.start(run, text) == 0
    return run


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A copy of the finished run, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
