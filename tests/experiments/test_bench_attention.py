"""`bench attention`: peaks and times are what they are called, a wrong kernel is refused."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import reference
import torch

from checks import oracle
from experiments import bench
from experiments.benchmarks import attention, kernel_cost, timing
from experiments.benchmarks.kernel_cost import Case, Measurement, Skipped
from model import kernels
from model.native import build

ROOT = Path(__file__).parents[2]


def test_the_exponent_of_known_powers() -> None:
    """A fit that takes T * T for linear growth, or the reverse."""
    lengths = [2048, 4096, 8192, 32_768]
    assert timing.exponent(lengths, [3.0 * n for n in lengths]) == pytest.approx(1, abs=1e-12)
    assert timing.exponent(lengths, [0.1 * n * n for n in lengths]) == pytest.approx(2, abs=1e-12)
    assert timing.exponent(lengths, [n**1.5 for n in lengths]) == pytest.approx(1.5, abs=1e-12)
    assert timing.exponent(lengths, [7.0] * 4) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("window, sinks", [(1, 0), (3, 0), (3, 2), (5, 20), (40, 1), (None, 0)])
def test_the_oracle_of_single_rows(window: int | None, sinks: int) -> None:
    """A comparison with another rule than the one of the window."""
    q, k, v, _ = (x.double() for x in kernel_cost.draw(Case("blocked", 17, 1, heads=2), 17))
    rows = [0, 1, 2, 3, 9, 16]
    expected = reference.attention(q, k, v, window, sinks)[:, :, rows]
    torch.testing.assert_close(oracle.attention(q, k, v, window, sinks, rows=rows), expected)


@pytest.mark.parametrize("kernel", ["dense", "blocked", "full", "flex"])
@pytest.mark.parametrize("window, sinks", [(16, 3), (50, 0)])
def test_right_kernels_pass(kernel: str, window: int, sinks: int) -> None:
    """A kernel that is refused although it is right."""
    case = Case(kernel, 2048, window, sinks, heads=2, head_dim=8, backward=kernel != "flex")
    assert kernel_cost.short_difference(case) < 1e-5 < attention.TOLERANCE


def test_native_passes_in_bf16() -> None:
    """A comparison of numbers that were rounded before with those that were not."""
    if build.refusal("attention"):
        pytest.skip("native kernels cannot run here")
    for backward in (False, True):
        case = Case("native", 2048, 50, 3, heads=2, head_dim=16, backward=backward)
        assert case.dtype == torch.bfloat16
        assert 1e-3 < kernel_cost.short_difference(case) < attention.BF16_TOLERANCE / 2


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("window", [16, 256])
def test_a_wrong_native_kernel_is_not_measured(
    window: int, change: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tolerance for bf16 so wide that a key too many or too few passes."""
    if build.refusal("attention"):
        pytest.skip("native kernels cannot run here")
    right = kernels.KERNELS["native"]

    def mutant(q: Any, k: Any, v: Any, visibility: Any, return_lse: bool = False) -> Any:
        other = visibility._replace(window=visibility.window + change)
        return right(q, k, v, other, return_lse)

    monkeypatch.setitem(kernels.KERNELS, "native", mutant)
    monkeypatch.setattr(attention, "measure_in_process", lambda case: pytest.fail("measured"))
    words = ["attention", "--lengths", "2048", "--window", str(window), "--kernels", "native"]
    assert bench.main(words) == 1
    assert "wrong result: native, all rows of a short text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, reason",
    [([], "this processor has no AVX512-BF16"),
     (["--head-dim", "8"], "it needs heads of a multiple of 16 numbers")],
)  # fmt: skip
def test_native_is_left_out_where_it_cannot_run(
    words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A traceback instead of the other kernels, or a missing column without a word."""
    if not words:
        monkeypatch.setattr(build, "refusal", lambda *names: reason)
    monkeypatch.setattr(attention, "measure_in_process", invented)
    alone = ["attention", "--lengths", "1024", "2048", "--window", "8", *words, "--kernels"]
    assert bench.main([*alone, "blocked", "native"]) == 0
    out = capsys.readouterr().out
    assert f"native was left out: {reason}\n" in out and "bf16" not in out.replace(reason, "")
    assert bench.main([*alone, "native"]) == 2
    assert capsys.readouterr().err == f"error: native cannot run: {reason}\n"


def wider(original: kernels.Kernel) -> kernels.Kernel:
    """A kernel that sees W + 1 keys."""

    def mutant(q: Any, k: Any, v: Any, visibility: Any, return_lse: bool = False) -> Any:
        wide = visibility._replace(window=visibility.window + 1)
        return original(q, k, v, wide, return_lse)

    return mutant


def without_gradient(original: kernels.Kernel) -> kernels.Kernel:
    """A kernel whose keys get no gradient."""
    return lambda q, k, *rest, **options: original(q, k.detach() + 0 * k, *rest, **options)


def not_a_number(original: kernels.Kernel) -> kernels.Kernel:
    """A kernel whose first row is NaN."""

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
    monkeypatch.setattr(attention, "measure_in_process", lambda case: pytest.fail("measured"))
    words = ["attention", "--lengths", "300", "--window", "64", *["--backward"][:backward]]
    assert bench.main(words) == 1
    assert (
        "wrong result: blocked, all rows of a short text: differs from the oracle by"
        in capsys.readouterr().err
    )


def test_a_difference_at_full_length_stops_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that is right on short texts only, or the cost of a wrong kernel."""
    measured = []

    def outcome(case: Case) -> Measurement:
        measured.append(case.length)
        difference = attention.TOLERANCE * 2 if case.length > 99 else 0.0
        return Measurement(case.kernel, case.length, 1, 1.0, difference)

    monkeypatch.setattr(attention, "measure_in_process", outcome)
    words = ["attention", "--lengths", "64", "128", "256", "--window", "8", "--kernels", "dense"]
    assert bench.main([*words, "--json", str(tmp_path / "bench.json")]) == 1
    printed = capsys.readouterr()
    assert "wrong result: dense at T = 128: differs from the oracle by 0.0002" in printed.err
    assert measured == [64, 128] and printed.out == "" and not list(tmp_path.iterdir())


def invented(case: Case) -> Measurement | Skipped:
    """Costs that grow as T * T for `dense`, as T for others; `dense` is missing at 4,096."""
    if case.kernel != "dense":
        peak, seconds = 3000 * case.length, case.length * 2e-6
        return Measurement(case.kernel, case.length, peak, seconds, 1e-7)
    if case.length == 4096:
        return Skipped("dense", 4096, "needs about 9 GB, 1 GB are free")
    peak, seconds = 10 * case.length**2, case.length**2 * 1e-6
    return Measurement("dense", case.length, peak, seconds, 0.0)


WORDS = ["attention", "--lengths", "4096", "1024", "2048", "1024", "--window", "8",
         "--kernels", "dense", "blocked"]  # fmt: skip


def test_columns_hold_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory under time, one kernel under another, a growth over lengths that were not measured."""
    monkeypatch.setattr(attention, "measure_in_process", invented)
    assert bench.main(WORDS) == 0
    out = capsys.readouterr().out
    rows = {row[0]: row[1:] for row in map(str.split, out.splitlines()) if row}
    assert rows["T"] == ["1024", "2048", "4096"]  # of the plot, the last line
    assert rows["1,024"] == ["10.5", "3.1", "3.4x", "1,048.6", "2.0", "512.0x"]
    assert rows["2,048"] == ["41.9", "6.1", "6.8x", "4,194.3", "4.1", "1,024.0x"]
    assert rows["4,096"] == ["-", "12.3", "-", "-", "8.2", "-"]
    assert "dense    memory ~ T^2.00   time ~ T^2.00   over T = 1,024, 2,048\n" in out
    assert "blocked  memory ~ T^1.00   time ~ T^1.00   over T = 1,024, 2,048, 4,096\n" in out
    assert "dense at T = 4,096 was not measured: needs about 9 GB, 1 GB are free" in out
    assert "in the compared rows: 1e-07" in out and re.search(r" 8 MiB +d +b +\.\n", out)


def test_json_holds_the_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Numbers for a program that differ from those of the table, or lack their settings."""
    monkeypatch.setattr(attention, "measure_in_process", invented)
    path = tmp_path / "bench.json"
    assert bench.main([*WORDS, "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert (result["window"], result["lengths"]) == (8, [1024, 2048, 4096])
    found = {(m["kernel"], m["length"]): m["peak_bytes"] for m in result["measurements"]}
    assert found == {
        ("dense", 1024): 10_485_760, ("dense", 2048): 41_943_040,
        ("blocked", 1024): 3_072_000, ("blocked", 2048): 6_144_000, ("blocked", 4096): 12_288_000,
    }  # fmt: skip
    assert [(s["kernel"], s["length"]) for s in result["skipped"]] == [("dense", 4096)]
    exponents = [growth["memory_exponent"] for growth in result["growth"]]
    assert exponents == pytest.approx([2, 1])


def test_a_case_that_does_not_fit_is_not_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine swaps, or the system kills processes."""
    monkeypatch.setattr(kernel_cost, "free_bytes", lambda: 10**6)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert (
        bench.main(["attention", "--lengths", "20000", "--window", "8", "--kernels", "dense"]) == 0
    )
    out = capsys.readouterr().out
    assert "dense at T = 20,000 was not measured: needs about 5.7 GB, 0.0 GB are free" in out
    assert "growth unknown: measured at fewer than two lengths" in out


def test_peaks_grow_as_the_kernels_do() -> None:
    """A peak of the whole process, a peak from before the call, or one that misses freed memory.

    The scores and the weights of `dense` are 8 bytes for each pair and head; beside them there is
    only the mask.
    """
    short, long, banded = cases = [
        Case("dense", 1024, 64, heads=2, repeat=1),
        Case("dense", 4096, 64, heads=2, repeat=1),
        Case("blocked", 4096, 64, heads=2, repeat=1),
    ]
    with ThreadPoolExecutor(2) as threads:  # this changes the times, not the peaks
        outcomes = list(threads.map(kernel_cost.measure_in_process, cases))
    peaks = {}
    for case, outcome in zip(cases, outcomes, strict=True):
        assert isinstance(outcome, Measurement), outcome
        assert (outcome.kernel, outcome.length) == (case.kernel, case.length)
        assert outcome.max_difference < 1e-5 and outcome.seconds > 0
        assert outcome.peak_bytes < kernel_cost.needed_bytes(case) < 4 * outcome.peak_bytes
        peaks[case] = outcome.peak_bytes
    assert 2 * 8 * 4096**2 < peaks[long] < 1.5 * 2 * 8 * 4096**2
    assert timing.exponent([1024, 4096], [peaks[short], peaks[long]]) == pytest.approx(2, abs=0.1)
    assert peaks[banded] < peaks[long] / 8


@pytest.mark.parametrize(
    "words, message",
    [
        (["--lengths", "0"], "--lengths 0: give numbers of tokens from 1"),
        (["--lengths", "many"], "invalid int value: 'many'"),
        (["--window", "0"], "--window is 0: give 1 or more"),
        (["--sinks", "-1"], "--sinks is -1: give 0 or more"),
        (["--heads", "0"], "--heads is 0: give 1 or more"),
        (["--head-dim", "0"], "--head-dim is 0: give 1 or more"),
        (["--repeat", "0"], "--repeat is 0: give 1 or more"),
        (["--json", "/nowhere/bench.json"], "there is no folder /nowhere: make it first"),
        (["--kernels", "sparse"], "invalid choice: 'sparse'"),
        (["--kernels", "flex", "--backward"], "flex computes no gradients on a CPU"),
    ],
)
def test_nonsense_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, after minutes of measuring."""
    assert bench.main(["attention", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_help_says_what_it_shows_without_torch() -> None:
    """A command that has to be read to be used."""
    command = [sys.executable, "-m", "experiments.bench", "attention", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "What attention with a window costs" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(
        "example: python -m experiments.bench attention "
    )
