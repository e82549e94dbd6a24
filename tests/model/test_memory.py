"""Memory does not grow with the text: the purpose of the rolling cache."""

import itertools
import sys
from pathlib import Path

import pytest

from model import ModelConfig, Transformer, generate


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_memory_is_flat_over_50_000_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """Data kept for each token (keys, ids, positions, a graph) would grow with the text."""
    config = ModelConfig(
        vocab_size=512, dim=64, n_layers=4, n_heads=2, n_kv_heads=1, sliding_window=64
    )
    written = generate(Transformer(config), [[1]], 50_000, seed=1)
    assert sum(1 for _ in itertools.islice(written, 5_000)) == 5_000
    early = resident_bytes()
    assert sum(1 for _ in written) == 45_000
    late = resident_bytes()
    with capsys.disabled():
        print(f"\nRSS at 5,000 tokens {early / 1e6:.1f} MB, at 50,000 {late / 1e6:.1f} MB")
    # Keys and values of 45,000 more tokens would be 46 MB.
    assert late - early < 5e6
