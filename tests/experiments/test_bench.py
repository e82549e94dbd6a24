"""experiments/bench.py: it measures what it says, and refuses to measure a kernel that is wrong."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reference
import torch

from experiments import bench
from experiments.bench import Case, Measured
from model import kernels

ROOT = Path(__file__).parents[2]


def test_the_exponent_of_known_powers() -> None:
    """A fit that calls T * T linear, or the reverse."""
    lengths = [2048, 4096, 8192, 32_768]
    assert bench.exponent(lengths, [3.0 * n for n in lengths]) == pytest.approx(1, abs=1e-12)
    assert bench.exponent(lengths, [0.1 * n * n for n in lengths]) == pytest.approx(2, abs=1e-12)
    assert bench.exponent(lengths, [n**1.5 for n in lengths]) == pytest.approx(1.5, abs=1e-12)
    assert bench.exponent(lengths, [7.0] * 4) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("window, sinks", [(1, 0), (3, 0), (3, 2), (5, 20), (40, 1)])
def test_rows_are_those_of_the_loops(window: int, sinks: int) -> None:
    """A comparison with another rule than the one of the window."""
    case = Case("blocked", 17, window, sinks, heads=2, head_dim=6)
    q, k, v, _ = bench.draw(case, 17)
    rows = [0, 1, 2, 3, 9, 16]
    for tried, seen in ((case, (window, sinks)), (replace(case, kernel="full"), (None, 0))):
        expected = reference.attention(q.double(), k.double(), v.double(), *seen)[:, :, rows]
        torch.testing.assert_close(bench.by_row(q, k, v, rows, tried), expected)


@pytest.mark.parametrize("kernel", ["dense", "blocked", "full", "flex"])
@pytest.mark.parametrize("window, sinks", [(16, 3), (50, 0)])
def test_right_kernels_pass(kernel: str, window: int, sinks: int) -> None:
    """A kernel that cannot be measured because the comparison asks for something else."""
    case = Case(kernel, 2048, window, sinks, heads=2, head_dim=8, backward=kernel != "flex")
    assert bench.compare_all(case) < 1e-5 < bench.TOLERANCE


def wider(original: kernels.Kernel) -> kernels.Kernel:
    """A kernel that sees W + 1 keys."""

    def mutant(q: Any, k: Any, v: Any, visibility: Any, return_lse: bool = False) -> Any:
        wide = visibility._replace(window=visibility.window + 1)
        return original(q, k, v, wide, return_lse)

    return mutant


def without_gradient(original: kernels.Kernel) -> kernels.Kernel:
    """A kernel whose keys learn nothing."""
    return lambda q, k, *rest, **options: original(q, k.detach() + 0 * k, *rest, **options)


def not_a_number(original: kernels.Kernel) -> kernels.Kernel:
    """A kernel whose first row sees nothing."""

    def mutant(*arguments: Any, **options: Any) -> Any:
        out, lse = original(*arguments, **options)
        out[:, :, 0] = torch.nan
        return out, lse

    return mutant


@pytest.mark.parametrize(
    "mutant, backward", [(wider, False), (without_gradient, True), (not_a_number, False)]
)
def test_a_wrong_kernel_is_not_measured(
    mutant: Any, backward: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that is fast because it computes something else."""
    monkeypatch.setitem(kernels.KERNELS, "blocked", mutant(kernels.KERNELS["blocked"]))
    monkeypatch.setattr(bench, "start", lambda case: pytest.fail("it was measured"))
    words = ["--lengths", "300", "--window", "64", *["--backward"][:backward]]
    assert bench.main(words) == 1
    assert "wrong numbers: blocked, all rows of a short text: off by" in capsys.readouterr().err


def test_a_difference_at_full_length_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that is right on short texts only."""
    far = bench.TOLERANCE * 2
    monkeypatch.setattr(bench, "start", lambda c: Measured(1, 1.0, far if c.length > 99 else 0.0))
    assert bench.main(["--lengths", "64", "128", "256", "--window", "8"]) == 1
    said = capsys.readouterr()
    assert "wrong numbers: dense at T = 128: off by 0.0002" in said.err
    assert "  128" in said.out and "  256" not in said.out and "~" not in said.out


def test_columns_hold_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory under time, one kernel under another, a slope over lengths that were not measured."""

    def made_up(case: Case) -> Measured | str:
        if case.kernel == "dense":
            if case.length == 4096:
                return "dense at T = 4,096 was not started: needs about 9 GB, 1 GB free"
            return Measured(10 * case.length**2, case.length**2 * 1e-6, 0.0)
        return Measured(3000 * case.length, case.length * 2e-6, 1e-7)

    monkeypatch.setattr(bench, "start", made_up)
    words = ["--lengths", "4096", "1024", "2048", "1024", "--kernels", "dense", "blocked"]
    assert bench.main([*words, "--window", "8"]) == 0
    out = capsys.readouterr().out
    rows = {row[0]: row[1:] for row in map(str.split, out.splitlines()) if row}
    assert rows["T"] == ["1024", "2048", "4096"]  # of the plot, the last line
    assert rows["1,024"] == ["10.5", "3.1", "3.4x", "1,048.6", "2.0", "512.0x"]
    assert rows["2,048"] == ["41.9", "6.1", "6.8x", "4,194.3", "4.1", "1,024.0x"]
    assert rows["4,096"] == ["-", "12.3", "-", "-", "8.2", "-"]
    assert "dense    memory ~ T^2.00   time ~ T^2.00   over T = 1,024, 2,048\n" in out
    assert "blocked  memory ~ T^1.00   time ~ T^1.00   over T = 1,024, 2,048, 4,096\n" in out
    assert "4,096 was not started: needs about 9 GB, 1 GB free" in out
    assert "largest difference 1e-07" in out and re.search(r" 8 MiB +d +b +\.\n", out)


def test_what_does_not_fit_is_not_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine swaps, or the system ends whatever it likes."""
    monkeypatch.setattr(bench, "free_bytes", lambda: 10**6)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was started"))
    assert bench.main(["--lengths", "20000", "--window", "8", "--kernels", "dense"]) == 0
    out = capsys.readouterr().out
    assert "dense at T = 20,000 was not started: needs about 5.7 GB, 0.0 GB free" in out
    assert "two are needed to see it grow" in out


def test_peaks_grow_as_the_kernels_do() -> None:
    """A peak that is the process's own, that includes what came before, or misses what is freed.

    The scores and the weights of `dense`, both whole, are 8 bytes a pair and head; the mask is
    there as well, and no more than that.
    """
    few, many, banded = cases = [
        Case("dense", 1024, 64, heads=2, repeat=1),
        Case("dense", 4096, 64, heads=2, repeat=1),
        Case("blocked", 4096, 64, heads=2, repeat=1),
    ]
    with ThreadPoolExecutor(2) as threads:  # times suffer, peaks do not
        found = dict(zip(cases, threads.map(bench.start, cases), strict=True))
    peaks = {}
    for case, result in found.items():
        assert isinstance(result, Measured), result
        assert result.difference < 1e-5 and result.seconds > 0
        assert result.peak < bench.needed_bytes(case) < 4 * result.peak
        peaks[case] = result.peak
    assert 2 * 8 * 4096**2 < peaks[many] < 1.5 * 2 * 8 * 4096**2
    assert bench.exponent([1024, 4096], [peaks[few], peaks[many]]) == pytest.approx(2, abs=0.1)
    assert peaks[banded] < peaks[many] / 8


@pytest.mark.parametrize(
    "words, said",
    [
        (["--lengths", "0"], "--lengths 0: give numbers of tokens from 1"),
        (["--lengths", "many"], "invalid int value: 'many'"),
        (["--window", "0"], "--window is 0: 1 or more"),
        (["--sinks", "-1"], "--sinks is -1: 0 or more"),
        (["--heads", "0"], "--heads is 0: 1 or more"),
        (["--head-dim", "0"], "--head-dim is 0: 1 or more"),
        (["--repeat", "0"], "--repeat is 0: 1 or more"),
        (["--kernels", "sparse"], "invalid choice: 'sparse'"),
        (["--kernels", "flex", "--backward"], "flex computes no gradients on a CPU"),
    ],
)
def test_nonsense_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, after minutes of measuring."""
    assert bench.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_help_says_what_it_shows_without_torch() -> None:
    """A command that has to be read to be used."""
    command = [sys.executable, "-m", "experiments.bench", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "What attention with a window costs" in done.stdout and "--child" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("example: python -m experiments.bench ")
