"""`Check`, the result of a check, and `check`, the decorator that registers a generator as one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from checks.fixture import Fixture
from model.transformer import Transformer

Findings = Iterator[float | str]  # differences, and notes about cases that do not apply


@dataclass(frozen=True)
class Check:
    """The result of one check: the number of cases, and the largest difference among them."""

    name: str
    claim: str
    cases: int
    worst: float
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether no difference exceeds the tolerance; without cases, a note must say why."""
        return self.worst <= self.tolerance and (self.cases > 0 or bool(self.note))


CHECKS: dict[str, Callable[..., Check]] = {}  # name -> function of (model, seed=0)


def check(
    name: str, claim: str, tolerance: float = 0.0
) -> Callable[[Callable[[Fixture], Findings]], Callable[..., Check]]:
    """Register a generator of differences in CHECKS; tolerance 0 requires equal bits.

    An exception in the generator is a failed case, and its message becomes a note.
    """

    def register(generator: Callable[[Fixture], Findings]) -> Callable[..., Check]:
        def run(model: Transformer, seed: int = 0) -> Check:
            fixture = Fixture(model, seed)
            differences: list[float] = []
            notes: list[str] = []
            try:
                for finding in torch.no_grad()(generator)(fixture):
                    if isinstance(finding, str):
                        notes.append(finding)
                    else:
                        differences.append(math.inf if math.isnan(finding) else finding)
            except Exception as error:  # a model that raises has failed the check
                differences.append(math.inf)
                notes.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            worst = max(differences, default=0.0)
            return Check(name, claim, len(differences), worst, tolerance, "; ".join(notes))

        CHECKS[name] = run
        return run

    return register
