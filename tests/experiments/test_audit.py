"""experiments.audit finds each broken promise of the story world, and ends all its processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.stories import judge, telling
from data.stories.telling import Probe, Story, combination, story
from data.stories.world import split_of
from experiments import audit

ROOT = Path(__file__).parents[2]


def rows(printed: str) -> dict[str, list[str]]:
    """Promised and measured values and the verdict, by the name of the row."""
    lines = [line for line in printed.splitlines() if line.endswith(("holds", "FAILS"))]
    return {line[:34].strip(): line[34:].rsplit(maxsplit=2) for line in lines}


def test_a_short_world(capsys: pytest.CaptureFixture[str]) -> None:
    """Every promise has its line; what can be counted here is what is printed."""
    code = audit.main(["--stories", "300", "--judged", "20", "--processes", "2"])
    printed = capsys.readouterr().out
    found = rows(printed)
    assert len(found) == 10
    assert code == ("FAILS" in printed)
    assert found["100 stories in 3 processes"][1:] == ["1", "holds"]
    assert found["slips in 20 stories"][1:] == ["0", "holds"]
    assert found["alike of 300 stories"][1:] == ["0", "holds"]
    told = [story(0, index) for index in range(300)]
    words = set("".join(c if c.isalpha() else " " for c in " ".join(t.text for t in told)).split())
    assert found["distinct words"][1] == f"{len({word.lower() for word in words}):,}"
    distances = [t.text.count(" ", p.fact[1], p.use[0]) + 1 for t in told for p in t.probes]
    assert found["words from fact to use, at least"][1] == f"{min(distances)}"
    assert found["words from fact to use, at most"][1] == f"{max(distances):,}"
    assert f"\n{len(distances):,} probes in 300 stories: " in printed
    size = sum(len(t.text.encode()) for t in told)
    assert f"xz ratio of {size / 1e6:.1f} MB" in found


def test_every_broken_promise_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A world of one short story told again and again, each time by another process."""
    text = "An egg fell. An egg broke."

    def poor(seed: int, index: int) -> Story:
        return Story(text, (Probe("noun", (3, 6), (16, 19), "egg", ("cup", "jug")),))

    monkeypatch.setattr(telling, "story", poor)
    monkeypatch.setattr(judge, "slips", lambda text: ["no word: egg"])
    monkeypatch.setattr(audit, "_prose", lambda name: "== One\n\nAn egg fell.")
    monkeypatch.setattr(audit, "MB_PER_S", 1e9)
    monkeypatch.setattr(telling, "combination", lambda seed, index: ("One", "Mia", "egg"))
    monkeypatch.setattr(audit, "_tell_all", lambda seed, n, _: audit._tell(seed, 0, n))
    monkeypatch.setattr(audit, "NEAR", 1)
    assert audit.main(["--stories", "60", "--judged", "5"]) == 1
    printed = capsys.readouterr()
    found = rows(printed.out)
    assert [verdict for *_, verdict in found.values()] == ["FAILS"] * 10
    assert found["alike of 60 stories"][1] == "59"
    assert found["shared of 1 combinations"][1] == "1"
    assert found["slips in 5 stories"][1] == "5" and "story 0: no word: egg" in printed.err
    assert "broken: 10 of 10 promises" in printed.out


def test_batches_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes and three batches give what one batch gives, in the same order."""
    monkeypatch.setattr(audit, "BATCH", 20)
    alone, joined = audit._tell(0, 0, 50), audit._tell_all(0, 50, 2)
    assert np.array_equal(alone.texts, joined.texts)
    assert np.array_equal(alone.combinations, joined.combinations)
    assert alone.words == joined.words


def test_combinations_are_those_of_the_stories() -> None:
    """The hero stands in the story, and the thing, in plots that need one; one combination in two
    splits is found."""
    combinations = [combination(0, index) for index in range(50)]
    texts = [story(0, index).text for index in range(50)]
    assert all(c[0] and c[1] in text for c, text in zip(combinations, texts, strict=True))
    assert sum(c[2] in text.lower() for c, text in zip(combinations, texts, strict=True)) > 25
    told = audit._tell(0, 0, 400)
    assert [row.measured for row in audit._comparisons(told)] == ["0", "0"]
    held_out = next(index for index in range(400) if split_of(index) == "val")
    told.combinations[held_out] = told.combinations[0]
    assert [row.measured for row in audit._comparisons(told)] == ["0", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_its_parent() -> None:
    """Killed without a chance to clean up."""
    code = "from experiments import audit; audit._tell_all(0, 1_000_000, 2)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    children: list[int] = []
    for _ in range(300):
        children = list(map(int, listed.read_text().split()))
        if len(children) >= 3:  # two that tell, and Python's own that counts what they share
            break
        time.sleep(0.1)
    time.sleep(1)  # for the last of them to begin its watch
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        alive = [child for child in children if _is_alive(child)]
        if not alive:
            break
        time.sleep(0.1)
    for child in alive:
        os.kill(child, signal.SIGKILL)
    assert len(children) >= 3 and not alive


def _is_alive(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def test_silly_input(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--stories", "--judged", "--processes"):
        assert audit.main([option, "0"]) == 2
    assert audit.main(["--seed", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 4
