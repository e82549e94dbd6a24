"""All families, the slowest first, so that two processes end at about the same time."""

from torture import (
    bad_checkpoints,
    bad_configs,
    bad_folders,
    bad_sharded_checkpoints,
    bad_shards,
    bad_tokenizers,
    not_finite,
    processes,
    prompts,
    refusals,
    resumes,
    sandbox,
)
from torture.clocks import clock_jumps
from torture.disks import full_disk, read_only_disk
from torture.family import Family
from torture.kills import killed_again_and_again, killed_at_calls
from torture.power_cut import power_cut
from torture.signals_elsewhere import signals_elsewhere
from torture.signals_sent import signals_sent
from torture.system_calls import system_calls
from torture.two_writers import two_writers

FAMILIES: list[Family] = [
    processes.FAMILY,
    resumes.RESUMES,
    refusals.REFUSALS,
    Family("system calls", "each file whole, an error reported, a retry succeeds", system_calls),
    Family("killed at calls", "the same SHA-256 after a fault in any call", killed_at_calls),
    Family("signals", "saved, 128 + n, the same SHA-256", signals_sent),
    Family("100 kills", "one run killed 100 times: the same SHA-256", killed_again_and_again),
    Family("two writers", "one wins, the others exit with 2", two_writers),
    Family("power cut", "nothing torn, nothing lost after the return", power_cut),
    Family("signals elsewhere", "no terminal, nohup, other commands", signals_elsewhere),
    Family("full disk", "one line, then the same SHA-256", full_disk),
    Family("clock jumps", "the same SHA-256 under any clock", clock_jumps),
    Family("read only disk", "one line, then the same SHA-256", read_only_disk),
    *bad_checkpoints.FAMILIES,
    *bad_sharded_checkpoints.FAMILIES,
    *bad_configs.FAMILIES,
    *bad_folders.FAMILIES,
    *bad_shards.FAMILIES,
    *bad_tokenizers.FAMILIES,
    *not_finite.FAMILIES,
    *prompts.FAMILIES,
    *sandbox.FAMILIES,
]
