"""experiments/report.py: one page with a section for each result."""

import re
from pathlib import Path

import pytest
import tiny

from experiments import report
from experiments.intervals import Interval
from experiments.result import Clock, store


def test_the_report_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page without the loss, the samples or the config of the run."""
    assert report.main([str(run)]) == 0
    file = run / "report/index.html"
    assert capsys.readouterr().out == f"report: {file}\n"
    html = file.read_text(encoding="utf-8")
    samples = (run / "samples.txt").read_text(encoding="utf-8")
    for step in re.findall(r"=== step (\d+),", samples):
        assert f"step {step}, " in html
    last = tiny.measured(run)[-1]["val_bpb"]
    assert f"{last:.4f}" in html and "sliding_window: 8" in html and "<polyline" in html
    first = html
    assert report.main([str(run)]) == 0
    assert file.read_text(encoding="utf-8") == first


def test_a_result_of_another_version_is_left_out(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One old file must not cost the whole page."""
    about = Clock("python -m experiments.judge", []).about()
    file = store(run, "judge", about, Interval(1.0, None, None, 1))
    assert report.main([str(run)]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"note: {file} is not a result of this version")
    assert printed.err.count("\n") == 1 and "report: " in printed.out


def test_a_config_stands_for_its_run(run: Path, tmp_path: Path) -> None:
    """`make train` knows the config only."""
    config = tmp_path / "a.yaml"
    config.write_text(f"run_dir: {run}\n")
    assert report.main([str(config)]) == 0
    assert (run / "report/index.html").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [(False, "is not a folder"), (True, "holds no run and no results")],
)
def test_what_has_no_report(
    make: bool, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page about nothing, or a traceback."""
    folder = tmp_path / "runs"
    if make:
        folder.mkdir()
    assert report.main([str(folder)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert not (folder / "report").exists()


def test_missing_experiments_are_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be measured of a run, here its stories, must not cost the page."""
    assert report.main([str(run), "--measure"]) == 0
    printed = capsys.readouterr()
    for name in ("judge", "recall"):
        assert f"note: the page lacks {name}" in printed.err
    assert "was not trained on stories" in printed.err
    html = (run / "report/index.html").read_text(encoding="utf-8")
    assert "How far back does the model look?" in html and html.count("<svg") > 2
