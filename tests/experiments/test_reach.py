"""experiments.reach: influence by distance, the numbers about it, and the check of the walls."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny
import torch

from experiments import influence, reach, reach_summary
from experiments.pages.page import page
from experiments.reach_result import ReachResult, WallCheck, walls
from experiments.result import load
from model.window import visible
from scripts import verify
from tests.model import small

TEXTS = small.text(20, rows=4)


def one_too_many(i: Any, j: Any, window: int | None, *rest: Any) -> Any:
    """The rule with a window of W + 1."""
    return visible(i, j, None if window is None else window + 1, *rest)


@pytest.fixture
def wrong_window(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every kernel of the checks sees one key too many."""
    monkeypatch.setattr("model.kernels.visibility.visible", one_too_many)
    yield


@pytest.mark.parametrize("window", [3, (2, 5, 1), (4, None, 2), None])
def test_influence_is_zero_exactly_where_the_reference_has_no_path(window: Any) -> None:
    """A curve that is shifted, reversed, or counted from the wrong token."""
    model = small.build(window)
    gradient = influence.by_gradient(model, TEXTS)
    substitution = influence.by_substitution(model, TEXTS, torch.arange(small.VOCAB), 0)
    length = TEXTS.shape[1] - 1
    for n in range(3):
        reached = reference.depends(small.windows(model.config)[: n + 1], 0, length)[-1]
        distances = {length - 1 - token for token in reached}
        for curves in (gradient, substitution):
            found = set(curves.total[:, n].sum(0).nonzero().flatten().tolist())
            assert found == distances & set(curves.pairs.sum(0).nonzero().flatten().tolist())


def test_a_gradient_is_the_change_of_a_log_probability() -> None:
    """Compared with a difference quotient: two embeddings are moved by a thousandth."""
    model, text = small.build(4), TEXTS[:1]
    curves = influence.by_gradient(model, text)
    for distance in (0, 2, 5):
        at, step, slope = 18 - distance, 1e-5, []
        for n in range(model.config.dim):
            values = []
            for sign in (1, -1):

                def move(
                    _m: Any, _i: Any, out: Any, by: float = sign * step, place: Any = (0, at, n)
                ) -> Any:
                    out[place] += by
                    return out

                hook = model.tok_embeddings.register_forward_hook(move)
                with torch.no_grad():
                    scores = model(text[:, :-1])[0, -1].log_softmax(-1)
                hook.remove()
                values.append(float(scores[text[0, -1]]))
            slope.append((values[0] - values[1]) / (2 * step))
        assert math.isclose(float(curves.total[0, -1, distance]), np.linalg.norm(slope),
                            rel_tol=1e-6)  # fmt: skip


def test_a_substitution_moves_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Total variation of two passes, one of them with another token, at each later query."""
    monkeypatch.setattr(influence, "SOURCES", 1)
    model, text = small.build(4), TEXTS[:1]
    curves = influence.by_substitution(model, text, torch.tensor([7]), 0)
    source = 18 - int(curves.pairs.sum()) + 1
    other = text[:, :-1].clone()
    other[0, source] = 7
    before, after = (model(tokens)[0].softmax(-1) for tokens in (text[:, :-1], other))
    moved = (before - after).clamp(min=0).sum(-1)[source:]
    assert torch.allclose(curves.total[0, -1, : len(moved)], moved, atol=1e-12)


def test_the_numbers_about_a_curve() -> None:
    """A curve that falls by e in 5 tokens: its shares, its quantiles and its fit are known."""
    curve = torch.exp(-torch.arange(40, dtype=torch.float64) / 5)
    total = torch.stack([curve, 3 * curve])[:, None].repeat(1, 3, 1)
    curves = influence.Curves(total, torch.ones(2, 40, dtype=torch.float64))
    *_, found = reach_summary.summarize([curves], "gradient", [19, 39], 20)
    assert found.output == "prediction" and found.wall == 39
    expected = np.exp(-np.arange(40) / 5) / np.exp(-np.arange(40) / 5).sum()
    assert np.allclose(found.share, expected) and np.allclose(found.low, expected)
    # 1 - exp(-(d + 1) / 5) reaches a half at d = 2.5, nine tenths at 10.5.
    assert [w.mean for w in found.within] == [3, 11, 22]
    assert found.beyond is not None and math.isclose(found.beyond.mean, expected[20:].sum())
    assert found.tau is not None and math.isclose(found.tau.mean, 5, rel_tol=1e-9)
    assert found.fit is not None and found.fit > 1 - 1e-9
    first, *_ = reach_summary.summarize([curves, curves], "gradient", [19, 39], 20)
    assert len(first.share) == 20 and first.beyond is None and first.tau is None
    assert first.within[0].n == 2


def test_walls() -> None:
    assert walls([3, 2, 5], 0) == [2, 3, 7]
    assert walls([3, None, 5], 0) == [2, None, None]
    assert walls([3, 2], 1) == [None, None]


def test_texts_lie_inside_documents_that_are_long_enough() -> None:
    """A text over two documents would show a model that looks across their border."""
    tokens = torch.tensor([1, *range(10, 30), 1, *range(30, 35), 1, *range(40, 52)])
    texts, inside = influence.draw_texts(tokens, 1, 9, 10, 0)
    assert inside and texts.shape == (9, 11)
    for text in texts.tolist():
        assert 1 not in text[1:] and text[1] not in range(30, 36)
    assert not influence.draw_texts(tokens, 1, 3, 30, 0)[1]


def test_a_fault_names_layer_and_distance() -> None:
    assert WallCheck("dense", 0, 7, 7, 6, 20).fault is None
    assert "depends on the token 9 back" in (WallCheck("dense", 2, 7, 7, 9, 20).fault or "")
    assert "no token further than 6 back" in (WallCheck("dense", 2, 7, 6, 6, 20).fault or "")


def test_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stored result gives the same page, and holds what is printed."""
    file = run / "all.json"
    assert reach.main([str(run), "--texts", "4", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "run: beyond the walls (layer 0: 7, layer 1: 14) influence is exactly 0" in printed
    assert re.search(r"at the walls it is not; looked up to (\d+) tokens back\n", printed)
    assert printed.splitlines()[-1] == f"picture: python -m experiments.report {run}"
    about, result = load(run / "report" / "reach.json", ReachResult)
    assert json.loads(file.read_text())["groups"][0]["windows"] == [8, 8]
    (group,) = result.groups
    assert (group.widest, group.wall, group.texts) == (8, 14, 4)
    assert group.random_walk == pytest.approx(8 * 2**0.5)
    assert all(sum(found.share) == pytest.approx(1) for found in group.outputs)
    html = page("reach", [], [reach.section(about, result)])
    assert "wall 14" in html and html.count("<svg") == 4


def test_a_sink_token_leaves_the_wall(tmp_path: Path, text: Path) -> None:
    """It is the same in every text, so the wall holds; the numbers beyond W were left out."""
    run = tmp_path / "run"
    more = ["model.sink_token=true", "train.max_steps=2", "train.warmup_steps=1"]
    assert tiny.start(run, text, *more) == 0
    assert reach.main([str(run), "--texts", "2"]) == 0
    (group,) = load(run / "report" / "reach.json", ReachResult)[1].groups
    assert group.wall == 14 and all(group.of(m).beyond is not None for m in reach.METHODS)


def test_a_window_of_one_key_too_many_is_found(
    run: Path, wrong_window: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands must fail, and say in which layer and how far back."""
    assert reach.main([str(run), "--texts", "2"]) == 1
    printed = capsys.readouterr().out
    assert "layer 0 (dense kernel): the output depends on the token 8 back, and the wall is 7" in (
        printed
    )
    assert "layer 1 (auto kernel): the output depends on the token 16 back" in printed
    assert verify.main([str(run), "--only", "perturbation", "reach"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED: perturbation, reach" in printed and "NOT 8" in printed


def test_a_window_of_one_key_too_few_is_found(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "model.kernels.visibility.visible", lambda i, j, w, *rest: visible(i, j, w - 1, *rest)
    )
    assert reach.main([str(run), "--texts", "2"]) == 1
    assert "no token further than 6 back, and the wall is 7" in capsys.readouterr().out


def test_options_out_of_range(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--texts", "1"], ["--seed", "-1"], ["--split", "none"]):
        assert reach.main([str(run), *options]) == 2
    assert reach.main([str(run / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 4
