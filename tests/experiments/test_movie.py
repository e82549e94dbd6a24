"""`experiments.movie`: slots and visible keys of every frame, against tables and the rule."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import movie
from experiments.frames import MovieResult, film, marks, stills
from experiments.pages.player import movie_page, still
from experiments.result import load
from model import ModelConfig, Transformer
from model.cache import Ring

WINDOWS = (4, 2, None)
# model/cache.py: W = 4, the slots after the positions written; -1 is empty.
TABLE = {
    2: [0, 1, 2, -1],
    3: [0, 1, 2, 3],
    4: [4, 1, 2, 3],
    6: [4, 5, 6, 3],
}
# and the keys that are visible to queries 3, 3, 4, 6 of the table
SEEN = {3: [0, 1, 2, 3], 4: [1, 2, 3, 4], 6: [3, 4, 5, 6]}


def shot(
    windows: tuple[int | None, ...], sinks: int, chunks: list[int], **more: Any
) -> MovieResult:
    """Film a small model over a text of sum(chunks) tokens."""
    n = sum(chunks)
    model = movie.small_model(windows, sinks, n)
    if more:
        config = ModelConfig(**(vars(model.config) | more))
        model = Transformer(config).double().eval()
    return film(model, list(range(n)), [f"t{p}" for p in range(n)], chunks, "test")


def rule(query: int, window: int | None, sinks: int) -> list[int]:
    """The keys that a query sees, written out once more."""
    first = 0 if window is None else max(0, query - window + 1)
    return sorted({*range(min(sinks, query + 1)), *range(first, query + 1)})


def test_slots_are_those_of_the_table() -> None:
    """The movie could show slots that the cache does not have."""
    result = shot((4, 4, 4), 0, [1] * 7)
    assert [frame.query for frame in result.frames] == list(range(7))
    assert [shape.numbers for shape in result.layers] == [[0, 1, 2]]
    for query, slots in TABLE.items():
        assert result.frames[query].layers[0].slots == slots
    for query, keys in SEEN.items():
        assert result.frames[query].layers[0].seen == keys
    changes = [layer.writes[0] for layer in (frame.layers[0] for frame in result.frames)]
    assert [(w.slot, w.before, w.after) for w in changes] == [
        (0, -1, 0), (1, -1, 1), (2, -1, 2), (3, -1, 3), (0, 0, 4), (1, 1, 5), (2, 2, 6),
    ]  # fmt: skip


def test_a_chunk_stays_beside_the_ring_for_its_own_queries() -> None:
    """A chunk shown as already written would hide keys that its first queries still see."""
    result = shot((4, 4, 4), 0, [3, 4])
    first, second, third, write, *queries, written = [frame.layers[0] for frame in result.frames]
    assert first.slots == second.slots == third.slots == [-1] * 4 and third.beside == [0, 1, 2]
    assert write.slots == TABLE[2] and len(write.writes) == 3
    for query, layer in zip(range(3, 7), queries, strict=True):
        assert layer.slots == TABLE[2] and layer.beside == [3, 4, 5, 6]
        assert layer.seen == rule(query, 4, 0)
    assert result.frames[-1].query is None and written.slots == TABLE[6]
    assert [(w.slot, w.before, w.after) for w in written.writes] == [
        (0, 0, 4), (1, 1, 5), (2, 2, 6), (3, -1, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("sinks", [0, 1, 3])
@pytest.mark.parametrize("chunks", [[1] * 12, [5, 5, 1, 1, 2], [12]])
@pytest.mark.parametrize("windows", [(4, 2, None), (1, 3, 30)])
def test_queries_see_what_the_rule_says(
    windows: tuple[int | None, ...], chunks: list[int], sinks: int
) -> None:
    """The highlighted keys could be others than those that attention reads."""
    result = shot(windows, sinks, chunks)
    assert result.missing == 0 and result.max_difference < 1e-12
    expected = 0
    for frame in result.frames:
        for shape, layer in zip(result.layers, frame.layers, strict=True):
            if frame.query is None:
                assert layer.seen == []
                continue
            count = 0 if shape.window is None else sinks
            assert layer.seen == rule(frame.query, shape.window, count)
            expected += len(layer.seen) * len(shape.numbers)
            lit = [p for p, on in zip(layer.slots, marks(layer, shape)[0], strict=True) if on]
            lit += [p for p, on in zip(layer.beside, marks(layer, shape)[1], strict=True) if on]
            assert sorted(lit) == layer.seen  # each key is marked in one place
    assert result.keys == expected


def test_the_sink_token_is_position_0() -> None:
    """The texts of all tokens could be shifted by one."""
    torch.manual_seed(0)
    result = shot((3, 3, 3), 1, [3, 1, 1], sink_token=True)
    assert result.tokens[:2] == ["(sink)", "t0"]
    assert [frame.query for frame in result.frames] == [0, 1, 2, 3, None, 4, 5]
    assert result.missing == 0 and result.layers[0].sinks == 2


def test_a_broken_ring_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A movie that computed the slots itself would show a right ring where the cache is wrong."""
    right = shot(WINDOWS, 1, [3, 3, 1, 1, 1])
    write = Ring._write

    def shifted(self: Ring, k: Any, v: Any, positions: Any, kept: Any) -> None:
        size, self.size = self.size, max(1, self.size - self.forgets)
        write(self, k, v, positions, kept)
        self.size = size

    monkeypatch.setattr(Ring, "_write", shifted)
    wrong = shot(WINDOWS, 1, [3, 3, 1, 1, 1])
    assert [f.layers[0].slots for f in wrong.frames] != [f.layers[0].slots for f in right.frames]
    assert right.missing == 0 < wrong.missing
    assert wrong.max_difference > 1e-3 > right.max_difference
    assert movie.main(["--frames", "0"]) == 1


def test_printed_frames(capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal could show other slots than the frames have."""
    assert movie.main(["--window", "4", "--sinks", "0", "--chunk", "1", "a b c d e f g"]) == 0
    printed = capsys.readouterr().out
    last = printed.split("frame 7 of 7")[1]
    assert re.search(r"holds +\[4 e\] +\[5 f\] +\[6 g\] +\[3 d\]\n +written +2 -> 6", last)
    assert "| layers 0, 1, 2 |" in printed and "\x1b" not in printed
    assert movie.main(["--frames", "2"]) == 0
    assert "frame 3 of" not in capsys.readouterr().out


def test_a_run_is_stored_and_its_page_is_whole(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report could not be made again, or the page need the network."""
    json_file = tmp_path / "movie.json"
    words = [str(run), "The old king </script> sings.", "--tokens", "20", "--json", str(json_file)]
    assert movie.main([*words, "--frames", "1"]) == 0
    about, result = load(run / "report/movie.json", MovieResult)
    assert json.loads(json_file.read_text())["tokens"] == result.tokens
    assert result.tokens[0] == "<s>" and "".join(result.tokens[1:]).startswith("The old king </")
    page = (run / "report/movie.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "http" not in page.replace("http://www.w3.org", "")
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["tokens"] == result.tokens and len(data["frames"]) == len(result.frames)
    part = movie.section(about, result)
    assert len(part.charts) == len(stills(result)) and "movie.py" not in part.title
    assert f"picture: python -m experiments.report {run}" in capsys.readouterr().out


def test_a_path_with_a_space_is_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was read as a text: the small model was filmed, without a word about the run."""
    moved = run.rename(run.parent / "my run")
    assert movie.main([str(moved), "--tokens", "9", "--frames", "0"]) == 0
    assert f"picture: python -m experiments.report '{moved}'" in capsys.readouterr().out
    assert (moved / "report/movie.json").exists()
    assert movie.main(["a b " * 2000, "--frames", "0"]) == 0  # no name of a file is so long


def test_a_still_shows_its_frame() -> None:
    """The picture of the report could show another frame."""
    result = shot((4, 4, 4), 0, [1] * 7)
    drawing = still(result, 6).svg()
    places = re.findall(r'class="middle">(\d)</text>', drawing)
    assert places == ["4", "5", "6", "3"] and "2 → 6" in drawing
    assert "<svg" in movie_page(result)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--window", "0"], "number of keys from 1"),
        (["--chunk", "0"], "--chunk is 0"),
        (["--out", "/nowhere/m.html"], "no such folder"),
        (["nowhere"], "nowhere"),
        (["a", "b", "c"], "3 words"),
        (["  "], "TEXT is empty"),
    ],
)
def test_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong word could end in a traceback."""
    assert movie.main(words) == 2
    assert message in capsys.readouterr().err
