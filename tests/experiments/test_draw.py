"""experiments/draw.py: the committed picture is what the script draws, and it draws the rule."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import reference
import torch

from experiments import draw
from model import ModelConfig, RollingKVCache, Transformer
from model.window import visible


def elements(kind: str, *names: str) -> dict[tuple[int, ...], str]:
    """The classes of all elements of a kind by the numbers that they stand for."""
    tree = ElementTree.fromstring(draw.picture())
    keys = [f"data-{name}" for name in names]
    return {
        tuple(int(element.attrib[key]) for key in keys): element.attrib["class"]
        for element in tree.iter(f"{{http://www.w3.org/2000/svg}}{kind}")
        if all(key in element.attrib for key in keys)
    }


def test_the_committed_picture_is_drawn_by_the_script(tmp_path: Path) -> None:
    """A picture that was changed by hand, or not drawn again."""
    assert draw.main(["--out", str(tmp_path / "window.svg")]) == 0
    assert (tmp_path / "window.svg").read_bytes() == draw.PICTURE.read_bytes()


def test_the_mask_is_the_rule() -> None:
    """A mask with W + 1 keys, or one that looks ahead."""
    cells = elements("rect", "query", "key")
    assert len(cells) == draw.N_TOKENS**2
    for (i, j), kind in cells.items():
        assert (kind != "hidden") == visible(i, j, draw.WINDOW) == reference.visible(i, j, 3)
        assert (kind == "own") == (i == j)


def test_the_ring_is_the_caches() -> None:
    """Slots that differ from those of the cache that models use."""
    config = ModelConfig(vocab_size=9, dim=8, n_layers=1, n_heads=1, n_kv_heads=1,
                         sliding_window=draw.RING)  # fmt: skip
    model, cache = Transformer(config), RollingKVCache(config)
    cells = elements("rect", "after", "slot", "position")
    assert len(cells) == draw.N_WRITTEN * draw.RING
    for token in range(draw.N_WRITTEN):
        with torch.no_grad():
            model(torch.tensor([[token]]), cache=cache)
        for slot, position in enumerate(cache.layers[0].positions[0].tolist()):
            kind = "hidden" if position < 0 else "own" if position == token else "seen"
            assert cells[token, slot, position] == kind


def test_the_reach_is_what_depends() -> None:
    """A way that ends too early, or one token too late."""
    circles = elements("circle", "layer", "token")
    last = draw.N_COLUMNS - 1
    for layer in range(draw.N_LAYERS + 1):
        above = [draw.WINDOW] * (draw.N_LAYERS - layer)
        reached = reference.depends(above, 0, draw.N_COLUMNS)[last]
        assert {token for (at, token), kind in circles.items()
                if at == layer and kind != "hidden"} == reached  # fmt: skip
    assert len(reference.depends([3] * 3, 0, draw.N_COLUMNS)[last]) == 7
    assert "= 7 tokens." in draw.picture()
