"""Each kernel, and `blocked` also with blocks so small that a short text crosses many of them."""

import pytest

from model import kernels


@pytest.fixture(params=["dense", "blocked", "blocked-1-1", "blocked-2-4", "blocked-3-3"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a kernel, as model.attention has it, after setting its block sizes."""
    name, *block = request.param.split("-")
    if block:
        monkeypatch.setattr(kernels, "SMALLEST_BLOCK", int(block[0]))
        monkeypatch.setattr(kernels, "LARGEST_BLOCK", int(block[1]))
    return name
