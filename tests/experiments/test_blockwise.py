"""`experiments.blockwise`: tiles against whole matrices, bytes against formulas."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments import blockwise
from experiments.benchmarks import block_times
from experiments.benchmarks.benchmark import WrongResult
from experiments.block_example import count, large_scores, walk
from experiments.blockwise import BlockwiseResult
from experiments.pages.tile_charts import tile_drawing
from experiments.result import load
from experiments.tiles import (
    Traffic,
    block_wise,
    block_wise_bytes,
    dense,
    dense_bytes,
    grid,
)

SHAPES = [
    (length, n_keys, window, block)
    for length, n_keys in ((1, 1), (7, 7), (8, 8), (5, 13), (13, 13), (9, 4))
    for window in (None, 1, 2, 3, 6, 20)
    for block in (1, 2, 3, 4, 16)
]


def drawn(length: int, n_keys: int, size: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """q (T, 4), k and v (S, 4) in float64."""
    generator = torch.Generator().manual_seed(length * 100 + n_keys)
    x = torch.randn(length + 2 * n_keys, 4, generator=generator, dtype=torch.float64)
    q, k, v = x.split((length, n_keys, n_keys))
    return q * size, k, v


def by_hand(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Attention one query at a time, over a list of its keys; 0 for a query without keys."""
    rows = []
    for n, query in enumerate(q):
        i = len(k) - len(q) + n
        seen = [j for j in range(i + 1) if window is None or i - j < window]
        if not seen:
            rows.append(torch.zeros(v.shape[1], dtype=v.dtype))
            continue
        scores = [float(query @ k[j]) / math.sqrt(len(query)) for j in seen]
        weights = [math.exp(score - max(scores)) for score in scores]
        rows.append(sum(w / sum(weights) * v[j] for w, j in zip(weights, seen, strict=True)))
    return torch.stack(rows)


@pytest.mark.parametrize(("length", "n_keys", "window", "block"), SHAPES)
def test_tiles_are_exact(length: int, n_keys: int, window: int | None, block: int) -> None:
    """A tile could be left out, counted twice or masked wrongly. Queries without any key (9 of 4
    positions) and rows that are hidden in their first tile must not give NaN."""
    q, k, v = drawn(length, n_keys)
    expected = by_hand(q, k, v, window)
    torch.testing.assert_close(block_wise(q, k, v, window, block), expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(dense(q, k, v, window), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("window", [None, 3, 6])
@pytest.mark.parametrize("block", [2, 4])
def test_large_scores_need_the_running_maximum(window: int | None, block: int) -> None:
    """Scores of +-1000: exp(1000) overflows. Without the maximum the output has NaN."""
    q, k, v = drawn(12, 12, size=1000.0)
    expected = by_hand(q, k, v, window)
    assert expected.isfinite().all()
    torch.testing.assert_close(block_wise(q, k, v, window, block), expected, atol=1e-12, rtol=0)
    assert not block_wise(q, k, v, window, block, running_max=False).isfinite().all()
    small = drawn(12, 12)
    assert torch.allclose(
        block_wise(*small, window, block, running_max=False), by_hand(*small, window)
    )


@pytest.mark.parametrize(("length", "n_keys", "window", "block"), SHAPES)
def test_the_kind_of_a_tile(length: int, n_keys: int, window: int | None, block: int) -> None:
    """A tile with visible pairs could be skipped, or a hidden pair left without a mask."""
    for tile in grid(length, n_keys, block, window):
        pairs = [
            j <= i and (window is None or i - j < window)
            for i in range(tile.queries[0], tile.queries[1] + 1)
            for j in range(tile.keys[0], tile.keys[1] + 1)
        ]
        kind = "full" if all(pairs) else "partly masked" if any(pairs) else "skipped"
        assert tile.kind == kind or (kind == "skipped" and tile.kind[:6] in ("before", "after ")), (
            tile
        )
        if tile.kind == "after the queries":
            assert tile.keys[0] > tile.queries[1]


def test_running_numbers() -> None:
    """The printed m, l and o could be others than those of the loop: they are computed here from
    the whole rows of scores."""
    example = walk(8, 2, 4, 4)
    q, k, v = torch.randn(
        3, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )  # fmt: skip
    scores = (q @ k.T / 2).tolist()
    assert example.max_difference <= 1e-12 and len(example.steps) == 9
    for step in example.steps:
        for row in step.rows:
            seen = [j for j in range(step.tile.keys[1] + 1) if 0 <= row.query - j < 4]
            if not seen:
                assert row.largest is None and row.total == 0
                continue
            largest = max(scores[row.query][j] for j in seen)
            weights = {j: math.exp(scores[row.query][j] - largest) for j in seen}
            assert row.largest == pytest.approx(largest, abs=1e-12)
            assert row.total == pytest.approx(sum(weights.values()), abs=1e-12)
            output = sum(weight * v[j] for j, weight in weights.items())
            assert row.output == pytest.approx(output.tolist(), abs=1e-12)


@pytest.mark.parametrize("window", [None, 1, 2, 5, 8, 9, 17, 100])
@pytest.mark.parametrize("block", [1, 3, 4, 8])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 16, 19])
def test_bytes_are_those_of_the_formulas(length: int, block: int, window: int | None) -> None:
    """The loop could read a tile that it does not count, or the formula miss the last tile."""
    traffic, q = Traffic(), torch.zeros(length, 4)
    block_wise(q, q, q, window, block, traffic)
    assert traffic.n_bytes == block_wise_bytes(length, 4, window, block)
    by_tile = sum(
        tile.keys[1] - tile.keys[0] + 1
        for tile in grid(length, length, block, window)
        if tile.kind in ("full", "partly masked")
    )
    assert traffic.n_bytes == 4 * (2 * length * 4 + 2 * by_tile * 4)
    traffic = Traffic()
    dense(q, q, q, window, traffic)
    assert traffic.n_bytes == dense_bytes(length, 4) and traffic.largest >= 4 * length**2


def test_counts_without_memory_are_those_with_it() -> None:
    """The counts of the tables come from tensors without data: they must not depend on it."""
    moved = {(row.way, row.window): row for row in count([256], [None, 100])}
    x = torch.randn(256, block_times.HEAD_DIM)
    for window in (None, 100):
        traffic = Traffic()
        block_wise(x, x, x, window, block_times.BLOCK, traffic)
        assert moved["tiles", window].n_bytes == traffic.n_bytes == moved["tiles", window].formula
        assert moved["tiles", window].largest == traffic.largest == 128 * 128 * 4
    assert moved["dense", None].n_bytes == 4 * (4 * 256 * 64 + 6 * 256**2) + 2 * 256**2


def test_the_example_overflows_without_the_maximum() -> None:
    """The sentence on the running maximum would say nothing."""
    large = large_scores(8, 2, 4, 4)
    assert large.with_maximum <= 1e-12 and 0 < large.lost_without <= large.numbers == 32


def test_the_drawing_has_every_pair() -> None:
    """The picture could show a computed tile as skipped."""
    drawing = tile_drawing(walk(8, 2, 4, 4))
    rects = [
        part for part in drawing.elements if part.startswith("<rect") and 'fill="none"' not in part
    ]
    seen = sum('opacity="0.7"' in part for part in rects) - 2  # 2 in the legend
    assert seen == sum(min(i + 1, 4) for i in range(8))
    masked = sum('opacity="0.15"' in part for part in rects) - 1
    assert seen + masked == 9 * 4
    assert sum('class="empty"' in part for part in rects) - 1 == 7


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths that take no time."""
    monkeypatch.setattr(blockwise, "QUICK_LENGTHS", (128, 256))
    monkeypatch.setattr(block_times, "SHORT", 1)


@pytest.mark.usefixtures("short")
def test_command_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report could not be made again from what was stored."""
    out, json_file = tmp_path / "a/b", tmp_path / "x.json"
    assert blockwise.main(["--quick", "--out", str(out), "--json", str(json_file)]) == 0
    printed = capsys.readouterr().out
    assert "3 full, 6 partly masked, 1 before the window, 6 after the queries" in printed
    about, result = load(out / "report/blockwise-quick.json", BlockwiseResult)
    assert json.loads(json_file.read_text())["example"]["length"] == 8 and about.quick
    assert {(t.way, t.window, t.length) for t in result.times} >= {
        ("dense", None, 128), ("tile loop", 128, 256), ("full", None, 256), ("blocked", 128, 128),
    }  # fmt: skip
    assert all(len(t.seconds) == 3 for t in result.times)
    part = blockwise.section(about, result)
    assert [chart.svg()[:4] for chart in part.charts] == ["<svg"] * 4
    assert f"picture: python -m experiments.report {out}" in printed


@pytest.mark.usefixtures("short")
def test_a_wrong_result_ends_in_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A time could be reported of a loop that computes something else."""
    monkeypatch.setattr(
        block_times, "block_wise", lambda q, k, v, window, block: block_wise(q, k, v, 3, block)
    )
    with pytest.raises(WrongResult):
        block_times.measure([128], [None], 1)
    assert blockwise.main(["--quick", "--out", str(tmp_path / "a")]) == 1
    assert "tile loop at 128 tokens differs" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("words", [["--block", "0"], ["--length", "100"], ["--window", "-1"]])
def test_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A size without an example could end in a traceback."""
    assert blockwise.main(words) == 2
    assert f"{words[0]} is {words[1]}" in capsys.readouterr().err
