"""All families, the slowest first, so that two processes end at about the same time."""

from torture import (
    bad_checkpoints,
    bad_configs,
    bad_folders,
    bad_shards,
    bad_tokenizers,
    not_finite,
    prompts,
    sandbox,
)
from torture.family import Family

FAMILIES: list[Family] = [
    *bad_checkpoints.FAMILIES,
    *bad_configs.FAMILIES,
    *bad_folders.FAMILIES,
    *bad_shards.FAMILIES,
    *bad_tokenizers.FAMILIES,
    *not_finite.FAMILIES,
    *prompts.FAMILIES,
    *sandbox.FAMILIES,
]
