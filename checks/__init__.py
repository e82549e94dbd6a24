"""Property checks of a model: `for check in run_checks(model): print(check)`

Each check copies the model, casts the copy to float64 and runs it on drawn inputs. It compares the
outputs with an oracle (the same model written as loops), or the outputs of two ways to run the
model. A check is a generator. For each case it yields one difference (0 if equal, infinity if the
results cannot be compared), or a note if the case does not apply. W is the widest window of the
model, n is the number of its sinks.

    attention.py       rule  kernels  logits  gradients  precision
    reach.py           perturbation  reach  windows  rope  sinks  documents
    rolling_cache.py   cache  memory  ragged  crop  restore  rescore
    native.py          mask  rounding  step     (in bf16 and fp32: these kernels have no float64)

    oracle.py          the expected results         fixture.py       the model and its inputs
    passes.py          forward and backward passes  differences.py   how results are compared

A check that holds is evidence for this model, these weights and these inputs, not a proof. Another
seed draws other inputs.
"""

from collections.abc import Iterator, Sequence

from checks import attention, native, reach, rolling_cache  # noqa: F401  importing them fills CHECKS
from checks.check import CHECKS, Check
from errors import UserError
from model.transformer import Transformer

__all__ = ["CHECKS", "Check", "run_checks"]


def run_checks(
    model: Transformer, names: Sequence[str] | None = None, seed: int = 0
) -> Iterator[Check]:
    """Run all checks, or those in `names`, one after the other. The model is not changed.

    Raises `UserError` for an unknown name, and for windows that are too wide to check.
    """
    for name in names or ():
        if name not in CHECKS:
            raise UserError(f"there is no check {name!r}: choose from {', '.join(CHECKS)}")
    return (CHECKS[name](model, seed) for name in names or CHECKS)
