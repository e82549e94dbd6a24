"""The names of the ways of reading."""

SINK_TOKEN_DROPPED = "sink token dropped"
RECOMPUTED = "recomputed"
AS_TRAINED = "cut as in training"
DENSE = "all keys"


def sinks_way(count: int) -> str:
    """Name the way of reading with `count` sinks."""
    return f"{count} sink" + "s" * (count != 1)
