"""What a proof is, and how a generator of differences becomes one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from checks.subject import Subject
from model.transformer import Transformer

Found = Iterator[float | str]


@dataclass(frozen=True)
class Proof:
    """What a proof found. It holds when no case differed by more than the tolerance."""

    name: str
    claim: str
    cases: int
    worst: float
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Also where nothing applied, if the note says why."""
        return self.worst <= self.tolerance and (self.cases > 0 or bool(self.note))


PROOFS: dict[str, Callable[..., Proof]] = {}  # name -> function of (model, seed=0)


def proof(
    claim: str, tolerance: float = 0.0
) -> Callable[[Callable[[Subject], Found]], Callable[..., Proof]]:
    """Enter a generator of differences in PROOFS; tolerance 0 asks for the same bits."""

    def enter(search: Callable[[Subject], Found]) -> Callable[..., Proof]:
        name = search.__name__

        def run(model: Transformer, seed: int = 0) -> Proof:
            subject = Subject(model, seed)
            differences: list[float] = []
            notes: list[str] = []
            try:
                for found in torch.no_grad()(search)(subject):
                    if isinstance(found, str):
                        notes.append(found)
                    else:
                        differences.append(math.inf if math.isnan(found) else found)
            except Exception as error:  # a model that cannot even run has failed
                differences.append(math.inf)
                notes.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            worst = max(differences, default=0.0)
            return Proof(name, claim, len(differences), worst, tolerance, "; ".join(notes))

        PROOFS[name] = run
        return run

    return enter
