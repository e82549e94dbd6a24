"""Words that the tables and charts of several experiments share."""

from collections.abc import Iterable, Sequence
from itertools import pairwise


def capital(text: str) -> str:
    """Return a text with a capital first letter; the rest stays, unlike with `str.capitalize`."""
    return text[:1].upper() + text[1:]


def range_names(edges: Sequence[int]) -> list[str]:
    """Return the names of the ranges of integers from each edge up to the next: "4-7", "8"."""
    return [f"{a}-{b - 1}" if b - 1 > a else f"{a}" for a, b in pairwise(edges)]


def describe_intervals(n_runs: Iterable[int], of_one_run: str) -> str:
    """Say which intervals the numbers of groups of runs have.

    `n_runs` are the runs of each group, one or more; `of_one_run` is the interval of a single run.
    """
    sizes = sorted(set(n_runs))
    kinds = []
    if several := " or ".join(str(size) for size in sizes if size > 1):
        kinds.append(f"means of {several} seeds, 95 % intervals of Student's t, over seeds")
    if sizes[0] == 1:
        kinds.append(f"one run: 95 % intervals {of_one_run}")
    return "; ".join(kinds)
