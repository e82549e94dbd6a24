"""The cost of a model, counted and not measured: arithmetic, cache, memory. Without torch.

A matrix of n weights takes 2n floating-point operations (FLOPs) per token: n multiplications and n
additions. Attention takes 4 * head_dim for each head and each visible pair of query and key: half
for the score, half for the weighted value. The backward pass costs twice the forward pass (PaLM,
arXiv 2204.02311, appendix B). Norms, rotations and softmax are left out, as is usual.

`visible_pairs` counts exactly the pairs that a window lets through.
"""

from dataclasses import dataclass, replace

from model.config import LINEARS, LoraConfig, ModelConfig
from model.window import visible_pairs

FLOAT32 = 4  # bytes of a number in weights, gradients, moments, checkpoints and the cache


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of memory that training needs; only `activations` is an estimate."""

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.gradients + self.moments + self.activations

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint file: weights and moments."""
        return self.weights + self.moments


def in_bytes(number: float) -> str:
    """Return a number of bytes in two decimals and a unit: 3.37 GiB."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 2**power:
            return f"{number / 2**power:,.2f} {unit}"
    return f"{number:g} B"


def full_attention(config: ModelConfig) -> ModelConfig:
    """Return the same model without windows, for comparison."""
    return replace(config, sliding_window=None)


def matmul_parameters(config: ModelConfig) -> int:
    """Count the weights that a token is multiplied with; tied embeddings count, for the logits."""
    counts = config.parameter_counts()
    return counts["attention"] + counts["feed_forward"] + config.vocab_size * config.dim


def attention_flops(config: ModelConfig, seq_len: int) -> int:
    """Count the FLOPs of scores and weighted values over one sequence, forward."""
    assert config.head_dim is not None
    tokens = seq_len + config.sink_token
    pairs = sum(visible_pairs(tokens, window, config.sinks) for window in config.windows)
    return 4 * config.head_dim * config.n_heads * pairs


def forward_flops(config: ModelConfig, seq_len: int) -> int:
    """Count the FLOPs of one forward pass over one sequence."""
    return 2 * matmul_parameters(config) * seq_len + attention_flops(config, seq_len)


def training_flops(config: ModelConfig, seq_len: int, lora: LoraConfig | None = None) -> int:
    """Count the FLOPs of a forward and a backward pass over one sequence.

    Half of the backward pass of a matrix is the gradient of its weights, which LoRA leaves out.
    Adapters are trained matrices.
    """
    full = 3 * forward_flops(config, seq_len)
    if lora is None:
        return full
    skipped, adapters = matmul_parameters(config), lora.parameter_count(config)
    return full + (3 * adapters - skipped) * 2 * seq_len


def flops_per_token(config: ModelConfig, seq_len: int, lora: LoraConfig | None = None) -> float:
    """Return the training FLOPs per token, the mean over a sequence; used for MFU."""
    return training_flops(config, seq_len, lora) / seq_len


def cache_bytes(config: ModelConfig, length: int, bytes_per_value: int = 2) -> int:
    """Count the bytes of keys and values cached after `length` tokens of one sequence.

    A layer caches its window and its sinks; a layer without a window caches every token.
    """
    assert config.head_dim is not None
    tokens = length + config.sink_token
    slots = sum(
        tokens if window is None else min(window + config.sinks, tokens)
        for window in config.windows
    )
    return 2 * config.n_kv_heads * config.head_dim * bytes_per_value * slots


def training_memory(
    config: ModelConfig,
    micro_batch_size: int,
    seq_len: int,
    optimizer: str,
    bytes_per_value: int,
    lora: LoraConfig | None = None,
) -> TrainingMemory:
    """Count the memory of training; `bytes_per_value` is that of an activation.

    AdamW keeps two moments per weight. Muon keeps one per weight of the matrices inside the blocks;
    AdamW updates embeddings, norms and output. With LoRA only the adapters, which AdamW updates,
    have gradients and moments.
    """
    counts = config.parameter_counts()
    weights = trained = FLOAT32 * sum(counts.values())
    one_moment = FLOAT32 * (counts["attention"] + counts["feed_forward"])
    if lora is not None:
        trained = FLOAT32 * lora.parameter_count(config)
        weights += trained
    if lora is not None or optimizer != "muon":
        one_moment = 0
    tokens = micro_batch_size * seq_len
    return TrainingMemory(
        weights=weights,
        gradients=trained,
        moments=2 * trained - one_moment,
        activations=tokens * bytes_per_value * _saved_values(config, lora),
    )


def _saved_values(config: ModelConfig, lora: LoraConfig | None) -> int:
    """Estimate the numbers saved per token for the backward pass: the inputs of each operation.

    In each layer: the residual stream and its norm, twice (4 dim); rotated queries and keys,
    values, and the output of attention; gate, up and their product. Native kernels save no more;
    PyTorch's operators do. Logits are left out: only those of some rows exist at a time
    (`model/loss.py`).

    With LoRA the input of a matrix without an adapter is not saved, and A x is.
    """
    assert config.head_dim is not None and config.hidden_dim is not None
    trained = set(LINEARS) if lora is None else set(lora.targets)
    norms = bool(trained & {"wq", "wk", "wv"}) + bool(trained & {"w1", "w3"})
    heads = config.head_dim * (2 * config.n_heads + 2 * config.n_kv_heads)
    layer = (2 + norms) * config.dim + heads + (2 + ("w2" in trained)) * config.hidden_dim
    layer += 0 if lora is None else lora.rank * len(lora.targets)
    return config.n_layers * layer + 2 * config.dim
