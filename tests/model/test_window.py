"""The rule of the window against drawings, brute force and counts."""

import pytest
import reference
import torch

from errors import UserError
from model.window import layer_windows, picture, reach, sink_view, visible, visible_pairs, widest

WINDOW_3 = """
# . . . . . . .
# # . . . . . .
# # # . . . . .
. # # # . . . .
. . # # # . . .
. . . # # # . .
. . . . # # # .
. . . . . # # #
""".strip()

WINDOW_2_SINKS_2 = """
# . . . . .
# # . . . .
# # # . . .
# # # # . .
# # . # # .
# # . . # #
""".strip()

WINDOW_2_SINKS_1_DOCUMENTS = """
# . . . . . . .
# # . . . . . .
# # # . . . . .
# . # # . . . .
. . . . # . . .
. . . . . # . .
. . . . . # # .
. . . . . # # #
""".strip()

WINDOWS = [None, 1, 2, 3, 5, 8, 9, 40]
SINKS = [0, 1, 2, 4, 11]


@pytest.mark.parametrize(("drawn", "window", "sinks"), [(WINDOW_3, 3, 0), (WINDOW_2_SINKS_2, 2, 2)])
def test_the_mask_is_the_one_drawn_by_hand(drawn: str, window: int, sinks: int) -> None:
    """A window of W + 1 or W - 1 keys, or sinks off by one, would change a character."""
    assert picture(len(drawn.splitlines()), window, sinks) == drawn


@pytest.mark.parametrize("sinks", SINKS)
@pytest.mark.parametrize("window", WINDOWS)
def test_integers_and_tensors_obey_the_reference(window: int | None, sinks: int) -> None:
    """Masks from tensors could follow another rule than pictures from integers."""
    length = 12
    expected = [
        [reference.visible(i, j, window, sinks) for j in range(length)] for i in range(length)
    ]
    by_integer = [[visible(i, j, window, sinks) for j in range(length)] for i in range(length)]
    p = torch.arange(length)
    assert by_integer == expected
    assert visible(p[:, None], p[None], window, sinks).tolist() == expected


def test_documents_are_the_ones_drawn_by_hand() -> None:
    """A query could see keys or sinks of an earlier document, or the first tokens of its row."""
    documents = [4, 4, 4, 4, 2, 9, 9, 9]
    assert picture(8, 2, 1, documents) == WINDOW_2_SINKS_1_DOCUMENTS


@pytest.mark.parametrize("sinks", SINKS)
@pytest.mark.parametrize("window", WINDOWS)
def test_documents_obey_the_reference(window: int | None, sinks: int) -> None:
    """Tensors of documents could broadcast wrongly, or hide tokens of document 0."""
    numbers = torch.tensor([0, 1, 1, 1, 2, 2, 3, 3, 3, 3])
    positions = torch.tensor([0, 1, 2, 3, 1, 2, 1, 2, 3, 4])
    documents = (numbers[:, None], numbers[None])
    seen = visible(positions[:, None], positions[None], window, sinks, documents)
    for row in range(len(numbers)):
        for column in range(len(numbers)):
            i, j = positions[row].item(), positions[column].item()
            d, e = numbers[row].item(), numbers[column].item()
            expected = reference.visible(i, j, window, sinks) and e in (d, 0)
            assert bool(seen[row, column]) == expected
            assert bool(visible(i, j, window, sinks, (d, e))) == expected


@pytest.mark.parametrize("sinks", SINKS)
@pytest.mark.parametrize("window", WINDOWS)
def test_sinks_are_as_far_away_as_in_the_cache(window: int | None, sinks: int) -> None:
    """The distance to a sink could exceed all distances of training, or be off by one."""
    for i in range(30):
        cached = reference.streamed(i, window, sinks)
        assert cached == [j for j in range(30) if reference.visible(i, j, window, sinks)]
        assert sink_view(torch.tensor([i]), window, sinks).tolist() == [cached.index(i)]


@pytest.mark.parametrize("window", WINDOWS)
def test_row_i_sees_min_of_i_plus_1_and_w(window: int | None) -> None:
    """A query without a key gives NaN; a query with W + 1 keys has another window."""
    for i in range(12):
        seen = sum(visible(i, j, window) for j in range(12))
        assert seen == (i + 1 if window is None else min(i + 1, window))


@pytest.mark.parametrize("sinks", SINKS)
@pytest.mark.parametrize("window", WINDOWS)
def test_visible_pairs_counts_what_is_visible(window: int | None, sinks: int) -> None:
    """FLOPs and MFU would be wrong."""
    for n in range(13):
        brute = sum(reference.visible(i, j, window, sinks) for i in range(n) for j in range(n))
        assert visible_pairs(n, window, sinks) == brute


@pytest.mark.parametrize("windows", [(1,), (3,), (3, 3), (1, 4, 2), (2,) * 6, (3, None), (None,)])
def test_reach_is_what_layers_pass_on(windows: tuple[int | None, ...]) -> None:
    """The printed reach could differ from that of the model."""
    length = 20
    sources = reference.depends(windows, 0, length)[-1]
    assert (reach(windows) or length) == len(sources) == length - min(sources)


def test_reach_of_mistral_7b() -> None:
    """The paper's own number (section 2): about 131K tokens back."""
    assert reach(layer_windows(4096, 32)) == 131_041


def test_widest_window() -> None:
    """The first window, or a list that `max` cannot compare."""
    assert widest((8, 32, 16)) == 32 and widest([1]) == 1
    assert widest((8, None)) is None and widest([None]) is None


def test_patterns_are_tiled() -> None:
    """A layer could have the window of another layer."""
    assert layer_windows([64, None], 5) == (64, None, 64, None, 64)
    assert layer_windows((1, 2, 3), 3) == (1, 2, 3)
    assert layer_windows(7, 2) == (7, 7)
    assert layer_windows(None, 2) == (None, None)


@pytest.mark.parametrize("wrong", [0, -1, [], [3, 0], [1, 2, 3]])
def test_invalid_windows_are_refused(wrong: int | list[int]) -> None:
    """A window of 0 hides every key. A pattern longer than the stack would be cut without an
    error."""
    with pytest.raises(UserError, match=r"^sliding_window "):
        layer_windows(wrong, 2)
