"""The command's bad input, which is reported before lm-eval or a model is opened.

(tests/interop/test_harness.py runs it; that is slow.)
"""

import os
import sys
from pathlib import Path

import pytest

from scripts.lm_eval import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", " ,"], "--tasks names no task: breeze_perplexity, breeze_recall"),
        (["--limit", "0"], "--limit is 0: give a whole number from 1"),
        (["--limit", "1.5"], "--limit is 1.5"),
        (["--limit", "nan"], "--limit is nan"),
        (["--num_fewshot", "-1"], "--num-fewshot is -1: give 0 or more"),
        (["--json", "nowhere/x.json"], "--json nowhere/x.json: name a file in a folder"),
        (["--include_path", "nowhere"], "--include-path nowhere is no folder"),
        (["RUN"], "a RUN is given twice"),
    ],
)
def test_wrong_values_end_before_anything_is_read(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation of minutes could end in an error that was known at the start."""
    assert main(["RUN", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("tasks", "offline"), [("breeze_recall,breeze_perp*", True), ("breeze_recall,own", False)]
)
def test_without_lm_eval_the_extra_is_named(
    tasks: str,
    offline: bool,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A traceback does not say what to install. By then the network is forbidden if all tasks are
    our own; a task of lm-eval would never find its data."""
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "interop.harness", raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delitem(os.environ, "HF_HUB_OFFLINE", raising=False)
    assert main([str(finished), "--tasks", tasks]) == 2
    assert 'pip install -e ".[eval]"' in capsys.readouterr().err
    assert ("HF_HUB_OFFLINE" in os.environ) == offline
