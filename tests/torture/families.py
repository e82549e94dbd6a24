"""All families, the slowest first, so that two processes end at about the same time."""

from torture import bad_checkpoints
from torture.family import Family

FAMILIES: list[Family] = [
    *bad_checkpoints.FAMILIES,
]
