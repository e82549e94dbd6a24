"""The kernel that a test runs with."""

from collections.abc import Iterator

import pytest
import small


@pytest.fixture(params=small.KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """The config's name of a kernel, after setting its block sizes."""
    with small.using(request.param) as name:
        yield name
