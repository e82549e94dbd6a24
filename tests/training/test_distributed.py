"""Several processes make the updates of one: torchrun must change nothing but the time.

AdamW and Muon hide a gradient that is wrong by a factor, and clipping does too. So raw gradients,
their norm and steps of plain descent are compared, with unequal numbers of targets, in double
precision; then the real optimizers. One process is compared with finite differences in
tests/test_train_step.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import tiny
import updates
from ranks import Mutant

import train
from errors import UserError
from training.distributed import World

EXACT = 1e-13  # of double precision, relative to the norm of each tensor
ROUNDED = 3e-6  # the same of fp32, where the terms of a gradient cancel each other
KINDS = ["ddp", "fsdp"]
SLOW_FOUR = [2, pytest.param(4, marks=pytest.mark.slow)]
Found = dict[Any, updates.Update]


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Callable[..., list[Any]]:
    """Call a function of `updates` in some processes; equal calls are made once."""
    known: dict[Any, list[Any]] = {}

    def call(
        size: int, function: Callable[..., Any], *more: Any, mutant: Mutant | None = None
    ) -> list[Any]:
        key = (size, function, str(more), mutant)
        if key not in known:
            folder = tmp_path_factory.mktemp("processes")
            known[key] = ranks.results(
                size, function, folder, text, *more, mutants=[mutant] if mutant else []
            )
        return known[key]

    return call


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / (np.linalg.norm(one) or 1))


def largest_distance(one: Found, found: Found) -> float:
    """Return the largest relative difference of a loss, norm, gradient or weight to `one`."""
    distances = []
    for (kind, *case), update in found.items():
        expected = one[("ddp", *case)]
        assert update.gradients.keys() == expected.gradients.keys(), (kind, case)
        distances += [
            abs(update.loss - expected.loss) / expected.loss,
            abs(update.norm - expected.norm) / expected.norm,
            *(distance(expected.gradients[n], update.gradients[n]) for n in update.gradients),
            *(distance(expected.weights[n], update.weights[n]) for n in update.weights),
        ]
    return max(distances)


def assert_equal(one: Found, all_found: list[Found], limit: float) -> None:
    """Each process must have what one process has; a failure names the first difference."""
    for rank, found in enumerate(all_found):
        for case, update in found.items():
            assert largest_distance(one, {case: update}) <= limit, (rank, case)


@pytest.mark.parametrize("part", [
    "plain", *(pytest.param(p, marks=pytest.mark.slow) for p in ("tied", "documents")),
])  # fmt: skip
@pytest.mark.parametrize("size", SLOW_FOUR)
def test_gradients_and_plain_descent_are_those_of_one_process(
    in_processes: Any, size: int, part: str
) -> None:
    """A sum could be a mean, a share could be counted twice or not at all, a process with few
    targets could weigh as much as one with many, or the last micro-batch alone could count."""
    shapes = list(updates.SHAPES)
    (one,) = in_processes(1, updates.descents, part, ["ddp"], shapes)
    assert_equal(one, in_processes(size, updates.descents, part, KINDS, shapes), EXACT)


@pytest.mark.slow
def test_four_processes_have_the_gradients_of_one(in_processes: Any) -> None:
    """Three processes could be right and the fourth wrong. (`make test-slow` does all shapes.)"""
    (one,) = in_processes(1, updates.descents, "plain", ["ddp"], list(updates.SHAPES))
    found = in_processes(4, updates.descents, "plain", KINDS, ["eighths"])
    assert_equal(one, found, EXACT)


@pytest.mark.slow
def test_in_fp32_they_differ_by_rounding(in_processes: Any) -> None:
    """Real runs do not compute in double precision: a kernel could be another there."""
    (one,) = in_processes(1, updates.singles, ["ddp"])
    assert_equal(one, in_processes(2, updates.singles, KINDS), ROUNDED)


@pytest.mark.parametrize("size", SLOW_FOUR)
def test_the_optimizers_make_the_updates_of_one_process(
    in_processes: Any, finished: Path, size: int
) -> None:
    """Muon could orthogonalize parts of a matrix, or another process's; tied or frozen weights
    could be updated twice or drift apart. 3 matrices of a shape, 36 rows, 2 sink logits."""
    (one,) = in_processes(1, updates.learned, finished, ["ddp"])
    assert_equal(one, in_processes(size, updates.learned, finished, KINDS), EXACT)


@pytest.mark.parametrize("size", SLOW_FOUR)
def test_a_split_has_one_loss(in_processes: Any, size: int) -> None:
    """A batch could be left out or counted twice, if their number is no multiple of the processes;
    with fsdp the processes would wait for each other. Batches: 1 to 9, and many."""
    (one,) = in_processes(1, updates.scores, ["ddp"])
    for found in in_processes(size, updates.scores, KINDS):
        assert found[6:] == pytest.approx(one, rel=1e-12)
        assert found[:6] == pytest.approx(one[:6], rel=1e-12)


@pytest.mark.parametrize("drills", [0, pytest.param(0.25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", SLOW_FOUR)
def test_all_processes_together_read_the_sequences_of_one(
    in_processes: Any, size: int, drills: float
) -> None:
    """The sequences, or their order, could depend on the number of processes."""
    more = [f"train.drill_share={drills}"]
    (one,) = in_processes(1, updates.order, more)
    found = in_processes(size, updates.order, more)
    for step, sequences in enumerate(one):
        assert np.array_equal(np.concatenate([shares[step] for shares in found]), sequences)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    """Some sequences would be left out. The message names both keys once."""
    World(size=2).refuse_remainder(8)
    with pytest.raises(UserError, match="is 9 sequences an update, which 2 processes cannot"):
        World(size=2).refuse_remainder(9)


@pytest.mark.parametrize(
    ("variables", "says"),
    [("WORLD_SIZE=x", "WORLD_SIZE='x' is not a number"),
     ("WORLD_SIZE=0", "RANK=0 is not below WORLD_SIZE=0"),
     ("RANK=1", "RANK=1 is not below WORLD_SIZE=1"),
     ("WORLD_SIZE=2 RANK=-1", "RANK='-1' is not a number"),
     ("WORLD_SIZE=2 RANK=2", "RANK=2 is not below WORLD_SIZE=2"),
     ("WORLD_SIZE=2 RANK=1", "MASTER_PORT='' is not a number"),
     ("WORLD_SIZE=2 RANK=1 MASTER_PORT=29500", "there is no MASTER_ADDR")],
)  # fmt: skip
def test_variables_that_torchrun_did_not_set_are_refused(
    variables: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other programs set some of them: training would end in a traceback, or wait for nobody."""
    for variable in variables.split():
        monkeypatch.setenv(*variable.split("="))
    assert train.main([tiny.QUICKSTART]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line and "start with torchrun" in line


# ------------------------------------------------------------------- these tests can fail

STEP = ("train", "train_step")
PREPARED = ("training.distributed", "parallelize")
MUTANTS = {
    "ddp: a mean": (
        Mutant(*PREPARED, "replica.register_comm_hook(None, lambda _, bucket: _added_up(bucket))",
               "pass"), "ddp",
    ),
    "fsdp: a mean": (Mutant(*PREPARED, "sharded.set_gradient_divide_factor(1.0)", "pass"), "fsdp"),
    "own targets": (
        Mutant(*STEP, "int((sequences[:, 1:] >= 0).sum())", "int((rows[:, 1:] >= 0).sum())"), "ddp",
    ),
    "micro-batches weigh the same": (
        Mutant(*STEP, "total / max(1, int((micro_batch[:, 1:] >= 0).sum()))",
               "len(micro_batches) * run.world.size"), "fsdp",
    ),
    "no division": (Mutant(*STEP, " / parts", ""), "ddp"),
    "no_sync always": (
        Mutant("training.distributed", "accumulating", "is_last or no_sync is None",
               "no_sync is None"), "ddp",
    ),
    "no_sync never": (
        Mutant("training.distributed", "accumulating", "is_last or no_sync is None", "True"), "ddp",
    ),
    "all take the first share": (
        Mutant("training.distributed", "World.share", "self.rank * n : (self.rank + 1) * n", ": n"),
        "fsdp",
    ),
    "the loss of one process": (Mutant(*STEP, "loss = run.world.total(loss)", "pass"), "ddp"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_an_error_in_the_gradient_is_seen(in_processes: Any, name: str) -> None:
    """The comparison of gradients would be blind."""
    mutant, kind = MUTANTS[name]
    case = ("plain", [kind], ["quarters"])
    (one,) = in_processes(1, updates.descents, "plain", ["ddp"], list(updates.SHAPES))
    assert largest_distance(one, in_processes(2, updates.descents, *case)[0]) <= EXACT
    broken = in_processes(2, updates.descents, *case, mutant=mutant)
    assert largest_distance(one, broken[0]) > 1e6 * EXACT


ON_PARTS = Mutant(
    "training.muon", "Muon._orthogonalized", "rank, size = self.world.rank, self.world.size",
    """rank, size = self.world.rank, self.world.size
    if hasattr(directions[0], "to_local"):
        from torch.distributed.tensor import DTensor
        return [
            DTensor.from_local(
                orthogonalize(part.to_local()[None])[0], part.device_mesh, part.placements
            ).full_tensor()
            for part in directions
        ]""",
)  # fmt: skip
MUON_MUTANTS = {
    "muon: parts are orthogonalized": ON_PARTS,
    "muon: one result for all of a process": Mutant(
        "training.muon", "Muon._orthogonalized", "orthogonalize(torch.stack(own)) if",
        "[orthogonalize(torch.stack(own))[0]] * len(own) if",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUON_MUTANTS)
def test_an_error_in_muon_is_seen(in_processes: Any, finished: Path, name: str) -> None:
    """The comparison of optimizers would be blind."""
    (one,) = in_processes(1, updates.learned, finished, ["ddp"])
    broken = in_processes(2, updates.learned, finished, ["fsdp"], mutant=MUON_MUTANTS[name])
    assert largest_distance(one, broken[0]) > 1e6 * EXACT


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [
    Mutant("training.evaluation", "evaluate", "world.total(nats)", "nats"),
    Mutant("training.evaluation", "_dealt", "np.full_like(targets, -1)", "targets"),
], ids=["one process", "a batch twice"])  # fmt: skip
def test_an_error_in_the_evaluation_is_seen(in_processes: Any, mutant: Mutant) -> None:
    """The comparison of losses would be blind."""
    (one,) = in_processes(1, updates.scores, ["ddp"])
    found = in_processes(2, updates.scores, ["ddp"], mutant=mutant)[0]
    assert found != pytest.approx(one, rel=1e-6)


@pytest.mark.slow
def test_an_error_in_the_order_is_seen(in_processes: Any) -> None:
    """The gradient is the same if processes take every other sequence: only the order tells."""
    mutant = Mutant("training.distributed", "World.share", "self.rank * n : (self.rank + 1) * n",
                    "self.rank :: self.size")  # fmt: skip
    more = ["train.drill_share=0"]
    (one,) = in_processes(1, updates.order, more)
    found = in_processes(2, updates.order, more, mutant=mutant)
    assert not np.array_equal(np.concatenate([shares[0] for shares in found]), one[0])
