"""Every test of this folder has a cache of its own, and needs no network."""

from pathlib import Path

import pytest

from storage import cache_folder

USERS_CACHE = cache_folder()  # before the fixture hides it


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the cache into the test's folder."""
    monkeypatch.setenv("BREEZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def users_cache(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the user's cache after all, for the test that may fetch the corpus."""
    monkeypatch.setenv("BREEZE_CACHE", str(USERS_CACHE))
    return USERS_CACHE
