"""What must hold of any model, found by running it: `for proof in prove(model): print(proof)`

Each proof takes the model itself, its weights cast to float64, and compares what it gives with an
oracle, the same model in loops, or two ways of running it that must agree. A proof is a generator:
it yields a difference for each case (0: none; infinity: plainly wrong), or a text, a remark, where
part of it does not apply. W is the model's widest window, n the number of its sinks.

    attention.py   rule  kernels  logits  gradients  precision
    reach.py       perturbation  reach  knob  rope  sinks  documents
    ring.py        cache  memory  ragged  crop  restore  rescore

    oracle.py      the expected side      subject.py     the model, and how things are compared

It proves this model with these weights, for the texts that it draws; another seed draws others.
"""

from collections.abc import Iterator, Sequence

from checks import attention, reach, ring  # noqa: F401  they enter their proofs in PROOFS
from checks.proof import PROOFS, Proof
from errors import UserError
from model.transformer import Transformer

__all__ = ["PROOFS", "Proof", "prove"]


def prove(model: Transformer, names: Sequence[str] | None = None, seed: int = 0) -> Iterator[Proof]:
    """Run all proofs, or those named, one after the other. The model stays as it is.

    Raises `UserError` for a name that no proof has, and for windows too wide to prove.
    """
    for name in names or ():
        if name not in PROOFS:
            raise UserError(f"there is no proof {name!r}: it is one of {', '.join(PROOFS)}")
    return (PROOFS[name](model, seed) for name in names or PROOFS)
