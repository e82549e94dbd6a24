"""The contenders of `bench train` and `bench lora`: the same weights, the same step.

A step is forward, backward, gradient clipping and fused AdamW, with the same settings for all. Only
the model and the number format of its products differ.
"""

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.machine import ROOT
from experiments.benchmarks.peer import drawn_model, has_transformers, same_model
from experiments.process_memory import peak_bytes, reset_peak
from model.config import LINEARS, LoraConfig, ModelConfig

if TYPE_CHECKING:  # torch is imported only where something is computed
    import torch
    from torch import Tensor

BREEZE, PLAIN, COMPILED = "Breeze", "Breeze, without native kernels", "Breeze, compiled"
LORA, LORA_RANK = "Breeze, LoRA", 8
DEFAULT, BF16 = "transformers, as it comes", "transformers, bf16"
BF16_COMPILED = "transformers, bf16, compiled"
PEERS = (DEFAULT, BF16, BF16_COMPILED)
LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP = 1e-4, 0.1, 1.0


@dataclass(frozen=True)
class Shape:
    """What is trained: a model and the tokens of one step."""

    name: str
    config: ModelConfig
    seq_len: int  # tokens
    batch_size: int  # sequences
    goal: float | None = None  # Breeze's tokens/s, as a multiple of the best of transformers

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.seq_len * self.batch_size


@dataclass
class Contender:
    """A model in training on a fixed batch."""

    name: str
    model: Any
    dtype: "torch.dtype"  # of the matrix products
    native: bool  # whether Breeze's native kernels may be used
    forward: Callable[[], "Tensor"]  # computes the logits (B, T, V)
    loss: Callable[[], "Tensor"]  # in nats per token
    optimizer: Any

    def gradients(self) -> float:
        """Compute the loss and its gradients; return the loss, in nats per token."""
        from model import native

        with native.enabled(self.native):
            loss = self.loss()
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def step(self) -> None:
        """Update the weights once."""
        import torch

        from model import native

        with native.enabled(self.native):
            self.gradients()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
            self.optimizer.step(1.0)

    def outputs(self) -> tuple["Tensor", float, float]:
        """Return logits in fp32, loss and the norm of all gradients; leave all as it was."""
        import torch

        from model import native

        with native.enabled(self.native):
            logits = self.forward().detach().float()
        loss = self.gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf).item()
        self.model.zero_grad()
        return logits, loss, norm


def precision(setting: str = "auto") -> "torch.dtype":
    """Return the dtype of matrix products that training chooses on this machine's CPU."""
    import torch

    from training.device import choose_precision

    return choose_precision(setting, torch.device("cpu"))[0]


def contender_names(compiled: bool) -> list[str]:
    """List the contenders that this machine can run."""
    from model import native

    is_bf16 = precision().itemsize == 2
    found = [BREEZE]
    if native.training_refusal() is None:
        found.append(PLAIN)
    if compiled:
        found.append(COMPILED)
    if has_transformers():
        found += [DEFAULT, *[BF16][:is_bf16], *[BF16_COMPILED][: is_bf16 and compiled]]
    return found


def build(name: str, shape: Shape, dtype: "torch.dtype | None" = None) -> Contender:
    """Build a contender; the weights and the batch of a shape are the same for all.

    `dtype` is that of the matrix products; None: what the contender uses on this machine.
    """
    import torch

    from model import native
    from model.adapters import add_adapters
    from training.optimizer import Optimizer

    model: Any = drawn_model(shape.config)
    draw = torch.Generator().manual_seed(1)
    sizes = (shape.batch_size, shape.seq_len + 1)
    text = torch.randint(shape.config.vocab_size, sizes, generator=draw)
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    if dtype is None:
        dtype = precision("fp32" if name == DEFAULT else "auto")
    if name in PEERS:
        model = same_model(model)
        forward, loss = _peer(model, name, dtype, inputs, targets)
    else:
        if name == LORA:
            add_adapters(model, LoraConfig(LORA_RANK, 2 * LORA_RANK, tuple(LINEARS)))
        forward, loss = _breeze(model, name, dtype, inputs, targets)
    optimizer = Optimizer(
        model.named_parameters(),
        name="adamw", lr=LEARNING_RATE, adamw_lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY,
    )  # fmt: skip
    is_native = name in (BREEZE, LORA) and native.training_refusal() is None
    return Contender(name, model, dtype, is_native, forward, loss, optimizer)


def _breeze(
    model: Any, name: str, dtype: "torch.dtype", inputs: "Tensor", targets: "Tensor"
) -> tuple[Callable[[], "Tensor"], Callable[[], "Tensor"]]:
    """Return logits and loss as `train.py` computes them."""
    import torch

    from model.loss import next_token_loss
    from training.device import autocast

    if name == COMPILED:
        model.compile_blocks()

    def forward() -> "Tensor":
        with autocast(torch.device("cpu"), dtype):
            logits: Tensor = model(inputs)
        return logits

    def loss() -> "Tensor":
        with autocast(torch.device("cpu"), dtype):
            return next_token_loss(model, inputs, targets)

    return forward, loss


def _peer(
    model: Any, name: str, dtype: "torch.dtype", inputs: "Tensor", targets: "Tensor"
) -> tuple[Callable[[], "Tensor"], Callable[[], "Tensor"]]:
    """Return logits and loss as transformers computes them: torch's cross-entropy, in fp32."""
    import torch
    from torch.nn.functional import cross_entropy

    from training.device import autocast

    call: Any = torch.compile(model, dynamic=False) if name == BF16_COMPILED else model

    def forward() -> "Tensor":
        with autocast(torch.device("cpu"), dtype):
            logits: Tensor = call(input_ids=inputs, use_cache=False).logits
        return logits

    def loss() -> "Tensor":
        return cross_entropy(forward().float().flatten(0, 1), targets.flatten())

    return forward, loss


# The memory of a contender is measured in a process of its own.


def peaks(name: str, shapes: list[Shape]) -> list[int]:
    """Return the peak memory of training each shape, in bytes, measured in a new process.

    It is the most that the process holds in two steps beyond what it held before the model was
    built: weights, gradients, moments and activations.
    """
    # With this setting glibc returns freed tensors at once, so resident memory is memory in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    task = json.dumps([name, [asdict(shape) for shape in shapes]])
    words = [sys.executable, "-m", "experiments.benchmarks.contenders", task]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure_peaks(task: str) -> list[int]:
    """Measure in this process, which must be a new one started by `peaks`."""
    name, shapes = json.loads(task)
    found: list[int] = []
    for values in shapes:
        shape = Shape(**values | {"config": ModelConfig(**values["config"])})
        if not found:  # imports, threads and buffers that every shape needs
            build(name, shape).step()
        gc.collect()
        before = reset_peak()
        contender = build(name, shape)
        contender.step()
        contender.step()
        found.append(peak_bytes() - before)
        del contender
    return found


if __name__ == "__main__":  # the new process of `peaks`
    print(json.dumps(_measure_peaks(sys.argv[1])))
