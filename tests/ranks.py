"""Start the processes of `torchrun` without its seconds of imports: they are forked from a server
that has imported torch, and get torchrun's environment variables.

As torchrun does, this process hosts the store in which they find each other.
"""

import __future__

import importlib
import inspect
import multiprocessing
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

IMPORTED = ["train", "start", "summary", "torch.distributed.fsdp", "torch.distributed.checkpoint"]
PATIENCE = 60  # seconds until processes that do not end are called a hang

_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(IMPORTED)


class Mutant(NamedTuple):
    """A change to the source of a function of the product: `before` becomes `after`."""

    module: str
    function: str
    before: str
    after: str

    def apply(self) -> None:
        """Change the function in this process, for all who have imported it."""
        module = importlib.import_module(self.module)
        owner: Any = module
        for part in self.function.split("."):
            owner = getattr(owner, part)
        function = inspect.unwrap(owner)
        source = textwrap.dedent(inspect.getsource(function))
        assert self.before in source, f"{self.function} has no {self.before!r}"
        made: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag  # types need not be importable
        changed = compile(source.replace(self.before, self.after), self.module, "exec", flags)
        exec(changed, vars(module), made)
        function.__code__ = inspect.unwrap(made[function.__name__]).__code__


def open_store() -> Any:
    """Return a store at a free port."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def variables(rank: int, size: int, port: int, restarts: int = 0) -> dict[str, str]:
    """Return the environment variables that torchrun sets for a process."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(restarts),
    }  # fmt: skip


def start(
    size: int, function: Callable[..., Any], *arguments: Any, port: int, restarts: int = 0
) -> list[Any]:
    """Start `size` processes that call a function; return them, in order of rank."""
    processes = [
        _forked.Process(
            target=_called, args=(variables(rank, size, port, restarts), function, arguments)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def _called(environment: dict[str, str], function: Callable[..., Any], arguments: Any) -> None:
    os.environ.update(environment)
    function(*arguments)


def results(
    size: int, function: Callable[..., Any], *arguments: Any, mutants: Sequence[Mutant] = ()
) -> list[Any]:
    """Return what `function` returns in each of `size` processes, in order of rank.

    Raises `RuntimeError` with the traceback of the first process that raised an exception.
    """
    store = open_store()
    pipes = [_forked.Pipe(duplex=False) for _ in range(size)]
    processes = [
        _forked.Process(
            target=_reported,
            args=(variables(rank, size, store.port), pipe[1], mutants, function, arguments),
        )
        for rank, pipe in enumerate(pipes)
    ]
    for process, pipe in zip(processes, pipes, strict=True):
        process.start()
        pipe[1].close()
    try:
        return [_received(pipe[0]) for pipe in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _reported(
    environment: dict[str, str], pipe: Connection, mutants: Any, function: Any, arguments: Any
) -> None:
    os.environ.update(environment)
    try:
        for mutant in mutants:
            mutant.apply()
        pipe.send((function(*arguments), None))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
    pipe.close()


def _received(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        raise RuntimeError(f"a process does not answer for {PATIENCE} s")
    result, failure = pipe.recv()
    if failure is not None:
        raise RuntimeError(failure)
    return result


def train(argv: Sequence[str], printed: Path) -> None:
    """Run train.py in this process as a command whose output goes to a file."""
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import train as command

    sys.exit(command.main(list(argv)))


def is_first() -> bool:
    """Return whether this is the process of rank 0."""
    return os.environ["RANK"] == "0"
