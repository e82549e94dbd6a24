"""The kernel that a test runs with, and how many cases a session proved."""

from collections import Counter
from collections.abc import Iterator

import pytest
import small


@pytest.fixture(params=small.KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name a kernel, as model.attention has it, after setting its block sizes."""
    with small.using(request.param) as name:
        yield name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many distinct cases were proved, proof by proof."""
    proofs = Counter(proof for proof, *_ in small.PROVED)
    if proofs:
        parts = ", ".join(f"{name} {n:,}" for name, n in sorted(proofs.items()))
        terminalreporter.write_line(f"{proofs.total():,} distinct cases proved: {parts}")
