"""Muon for the matrices of the layers and AdamW for the rest, or AdamW for all weights.

Muon orthogonalizes each update. That suits matrices inside the model, but not embeddings, the
output matrix and the norms: they use AdamW (arXiv 1711.05101). Frozen weights have no optimizer and
no moments.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.choices import OPTIMIZERS
from training.distributed import ALONE, World
from training.muon import Muon

BETAS = (0.9, 0.95)  # AdamW's, as usual for language models
MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")  # tensors in a checkpoint


class Optimizer:
    """One or two optimizers behind one interface: a step, and the moments as named tensors."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        name: str,
        lr: float,
        adamw_lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
        world: World = ALONE,
    ) -> None:
        """`lr` is the peak rate of Muon or of AdamW alone, `adamw_lr` that of AdamW beside Muon.

        `name` is one of `OPTIMIZERS`; `momentum` is Muon's, `dtype` that of its matrix products,
        which the processes of `world` divide among themselves.
        """
        assert name in OPTIMIZERS
        self.parameters = {n: p for n, p in parameters if p.requires_grad}
        matrices = [
            p for n, p in self.parameters.items() if n.startswith("layers.") and p.dim() == 2
        ]
        muon_ids = {id(p) for p in matrices} if name == "muon" else set()
        rest = [p for p in self.parameters.values() if id(p) not in muon_ids]
        rest_lr = adamw_lr if name == "muon" else lr
        adamw = torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.dim() == 2], "weight_decay": weight_decay},
                {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0},
            ],
            lr=rest_lr,
            betas=BETAS,
            fused=True,
        )
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, rest_lr)]
        if name == "muon":
            muon = Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, dtype=dtype,
                        world=world)  # fmt: skip
            self.optimizers.append((muon, lr))

    def step(self, ratio: float) -> None:
        """Update the weights at `ratio` times the peak rates, then delete the gradients."""
        for optimizer, lr in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * ratio
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, Tensor]:
        """Return the moments, named `<parameter>.<moment>`; empty before the first step."""
        return {
            f"{name}.{moment}": state[moment]
            for optimizer, _ in self.optimizers
            for name, parameter in self.parameters.items()
            if (state := optimizer.state.get(parameter))
            for moment in MOMENTS
            if moment in state
        }

    def start_at(self, step: int) -> None:
        """Continue after `step` updates: all moments exist and are 0. Fill those of `moments()`."""
        for optimizer, _ in self.optimizers:
            needed = MOMENTS[:1] if isinstance(optimizer, Muon) else MOMENTS[1:]
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = {moment: torch.zeros_like(parameter) for moment in needed}
                    if "exp_avg" in state:  # AdamW counts its own steps to correct its bias
                        state["step"] = torch.tensor(float(step), device=parameter.device)
                    optimizer.state[parameter] = state
