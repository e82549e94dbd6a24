"""All families, the slowest first, so that two processes end at about the same time."""

from torture import processes
from torture.family import Family

FAMILIES: list[Family] = [processes.FAMILY]
