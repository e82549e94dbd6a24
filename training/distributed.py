"""World: the processes that train one model together. One process alone is a world of size 1.

`torchrun --nproc-per-node N train.py ...` starts N processes and tells each its rank. They take
the same steps: each computes the gradients of its share of the batch, the gradients of all are
added up, and every process makes the same update.

    ddp     each process holds all weights and all moments             (arXiv 2006.15704)
    fsdp    each process holds a part of each weight, and collects a layer's whole weights only
            while it computes with them                                (arXiv 2304.11277)

Both are torch's own: `DistributedDataParallel` and FSDP2, `fully_shard`. The config describes the
whole update, so the number of processes changes neither the batch nor the order of the sequences.

Only the first process writes, locks and prints. torch is imported only if there are several.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

STEP_TIMEOUT = timedelta(seconds=60)  # a process that does not answer in a step for longer is dead
FILES_TIMEOUT = timedelta(hours=2)  # the others wait while the first writes files


@dataclass(eq=False)
class World:
    """This process's place among `size` processes. `rank` counts from 0, `local_rank` on its
    machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarts: int = 0  # how often torchrun has started the processes again, after one had died
    waiting: Any = None  # the process group of `wait`
    saving: Any = None  # that of saves in the background

    @classmethod
    def of_environment(cls) -> World:
        """Read the variables that torchrun sets. Without them, this process is alone.

        Raises `UserError` if some are missing or do not fit together.
        """
        size, rank = _number("WORLD_SIZE", "1"), _number("RANK")
        local_rank, restarts = _number("LOCAL_RANK"), _number("TORCHELASTIC_RESTART_COUNT")
        if rank >= size:
            raise UserError(f"RANK={rank} is not below WORLD_SIZE={size}: {_TORCHRUN_SETS}")
        if size > 1:
            _number("MASTER_PORT", "")
            if not os.environ.get("MASTER_ADDR"):
                raise UserError(f"WORLD_SIZE={size}, but there is no MASTER_ADDR: {_TORCHRUN_SETS}")
        return cls(rank, size, local_rank, restarts)

    @property
    def is_restarted(self) -> bool:
        """Whether torchrun started the processes again, after one had died."""
        return self.restarts > 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes, locks and prints."""
        return self.rank == 0

    def silence_others(self) -> None:
        """Make every process but the first print nothing from now on."""
        if not self.is_first:
            sys.stdout = sys.stderr = Path(os.devnull).open("a", encoding="utf-8")  # noqa: SIM115

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Connect the processes inside the block. An error in a silent process is printed.

        If another process died, this one ends with exit code 1 and one line: torchrun reports the
        other, and starts all again if it may.
        """
        if self.size == 1:
            yield
            return
        import torch
        import torch.distributed as dist

        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank)
        store, _, _ = next(dist.rendezvous("env://", timeout=STEP_TIMEOUT))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(self.size):
            # torchrun keeps this store over restarts: addresses of dead processes are in it.
            store = dist.PrefixStore(f"restart {self.restarts}", store)
        dist.init_process_group(
            store=store, rank=self.rank, world_size=self.size, timeout=STEP_TIMEOUT
        )
        self.waiting = dist.new_group(timeout=FILES_TIMEOUT, backend="gloo")
        self.saving = dist.new_group(timeout=FILES_TIMEOUT, backend="gloo")
        try:
            yield
        except Exception as error:
            is_lost = isinstance(error, dist.DistError) or "gloo" in str(error)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if is_lost:
                reason = f"lost another process, which died or does not answer: {reason[:160]} ..."
            if is_lost or not self.is_first:
                place = f"process {self.rank} of {self.size}"
                print(f"{place}: {reason}", file=sys.__stderr__, flush=True)
            if is_lost:
                raise SystemExit(1) from None
            raise
        # A thread that still frees the function of the last sum could block the end for ever.
        dist.barrier()
        dist.destroy_process_group()

    def refuse_remainder(self, batch_size: int) -> None:
        """Raise `UserError` if the processes cannot share the sequences of an update equally."""
        if batch_size % self.size:
            raise UserError(
                f"micro_batch_size times grad_accum_steps is {batch_size} sequences an update, "
                f"which {self.size} processes cannot share equally: choose a multiple of "
                f"{self.size}",
                "micro_batch_size",
                ["grad_accum_steps"],
            )

    def share(self, rows: Any) -> Any:
        """Return this process's part of a batch: equally many rows for each, in order of rank."""
        n = len(rows) // self.size
        return rows[self.rank * n : (self.rank + 1) * n]

    def gather(self, *values: float) -> list[list[float]]:
        """Return the values of each process, in order of rank: (size, len(values)).

        All processes must call this. The numbers are float64 and travel over the CPU.
        """
        if self.size == 1:
            return [list(values)]
        import torch
        import torch.distributed as dist

        mine = torch.tensor(values, dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        return [numbers.tolist() for numbers in everyone]

    def total(self, value: float) -> float:
        """Return the sum over all processes, added in order of rank: the same in all of them."""
        return sum(number for (number,) in self.gather(value))

    def sent_from(self, rank: int, tensor: Tensor) -> Tensor:
        """Return the tensor of process `rank`; the others pass one of its shape and dtype."""
        import torch.distributed as dist

        tensor = tensor.contiguous()
        dist.broadcast(tensor, rank)
        return tensor

    def largest(self, number: int | None) -> int:
        """Return the largest number of all processes; None counts as 0."""
        return int(max(value for (value,) in self.gather(number or 0)))

    def wait(self) -> None:
        """Return when all processes have called this. Any of them may have worked on files."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(self.waiting)

    def refuse_unequal(self, *values: float) -> None:
        """Raise `UserError` if the processes do not all find the same checkpoint."""
        if len({tuple(row) for row in self.gather(*values)}) > 1:
            raise UserError(
                "run_dir: the processes find different checkpoints in it: all machines must share "
                "this folder"
            )


ALONE = World()
_TORCHRUN_SETS = "torchrun sets these variables: start with torchrun, or unset WORLD_SIZE and RANK"


def _number(name: str, default: str = "0") -> int:
    text = os.environ.get(name, default)
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} is not a number: {_TORCHRUN_SETS}")
    return int(text)


def parallelize(
    model: nn.Module, layers: Iterable[nn.Module], kind: str, world: World
) -> nn.Module:
    """Prepare `model` for training in all processes; return the module that computes the loss.

    `kind` is `ddp` or `fsdp`. With fsdp the weights of `model` become parts, one group for each of
    `layers` and one for the rest: make the optimizer afterwards. Gradients are added up, never
    averaged: each process divides its loss by the targets of the whole update.
    """
    if world.size == 1:
        return model
    if kind == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for module in (*layers, model):
            sharded: Any = fully_shard(module)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
        return model
    from torch.nn.parallel import DistributedDataParallel

    replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
    replica.register_comm_hook(None, lambda _, bucket: _added_up(bucket))
    return replica


def _added_up(bucket: Any) -> Any:
    """Return the future sum of a bucket of gradients over all processes, for DDP."""
    import torch.distributed as dist

    sent = dist.all_reduce(bucket.buffer(), async_op=True)
    return sent.get_future().then(lambda done: done.value()[0])


def accumulating(module: nn.Module, is_last: bool) -> AbstractContextManager[object]:
    """Return the context of a micro-batch: DDP sends the gradients with the last one only.

    FSDP sends them with each, because no process has the memory for all gradients.
    """
    no_sync = getattr(module, "no_sync", None)
    return nullcontext() if is_last or no_sync is None else no_sync()


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Give each process the whole weights inside the block, also with fsdp.

    All processes must enter it.
    """
    sharded: list[Any] = [module for module in model.modules() if hasattr(module, "reshard")]
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor of which each process may hold a part. All must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds; all of it without fsdp."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """Return `full` divided among the processes as `like` is. Nothing is sent."""
    if not hasattr(like, "to_local"):
        return full
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
