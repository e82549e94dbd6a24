"""ModelConfig: a model's shape, in Mistral's own field names (arXiv 2310.06825, table 1).

It does not import torch, so that `--help` and `scripts/plan.py` start at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from errors import UserError
from model.window import Window, layer_windows

ATTENTION = ("auto", "dense", "blocked", "flex")  # see model/kernels/__init__.py
SCALING = ("none", "linear", "ntk", "yarn")  # see model/rope.py

# The linear layers of a block, each with the module that holds it.
LINEARS = {
    "wq": "attention", "wk": "attention", "wv": "attention", "wo": "attention",
    "w1": "feed_forward", "w2": "feed_forward", "w3": "feed_forward",
}  # fmt: skip

MOST_LAYERS = 10_000  # so that a mistyped number does not make a list that fills the memory
MOST_WEIGHTS = 1 << 60  # torch cannot count the bytes of more, not even on the device "meta"

WeightFormat = Literal["fp32", "int8"]  # of the matrices in decoding, see model/quantization.py


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. Raises `UserError`, which names the field, for values that are not valid.

    `sliding_window` counts keys, the query's own included; a list is tiled over the layers.
    """

    vocab_size: int
    dim: int = 256
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int | None = None  # None: dim / n_heads
    hidden_dim: int | None = None  # None: 8/3 * dim rounded up to a multiple of 32
    sliding_window: int | Sequence[int | None] | None = 64
    attention_sinks: int = 0  # first tokens that stay visible (StreamingLLM, arXiv 2309.17453)
    sink_token: bool = False  # a learned vector in front of every text; one more sink
    # Learned per-head sink logit: one more term in the softmax's denominator, with no value vector.
    sink_logits: bool = False
    rope_theta: float = 10_000.0
    rope_theta_local: float | None = None  # for layers with a window; None: rope_theta
    rope_scaling: str = "none"
    rope_factor: float = 1.0  # length of texts, as a multiple of the trained length
    rope_original_len: int | None = None  # the trained length in tokens, for yarn
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    attention: str = "auto"

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.attention_sinks < 0:
            raise UserError(
                f"attention_sinks is {self.attention_sinks}: it must be at least 0",
                "attention_sinks",
            )
        self._check_rope()
        if not 0.0 < self.norm_eps < 1.0:
            raise UserError(
                f"norm_eps is {self.norm_eps}: it must be between 0 and 1, such as 1e-5", "norm_eps"
            )
        if self.attention not in ATTENTION:
            raise UserError(
                f"attention is {self.attention!r}: it must be one of {', '.join(ATTENTION)}",
                "attention",
            )
        if isinstance(self.sliding_window, Sequence):
            object.__setattr__(self, "sliding_window", tuple(self.sliding_window))
        layer_windows(self.sliding_window, self.n_layers)

    def _check_sizes(self) -> None:
        """Derive head_dim and hidden_dim if they are None, and check all sizes."""
        for name in ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1", name)
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"n_heads ({self.n_heads}) is not divisible by n_kv_heads ({self.n_kv_heads}): "
                "each key/value head serves the same number of query heads",
                "n_heads",
                ["n_kv_heads"],
            )
        if self.head_dim is None:
            if self.dim % self.n_heads:
                raise UserError(
                    f"dim ({self.dim}) is not divisible by n_heads ({self.n_heads}): "
                    "change one of them or set head_dim",
                    "dim",
                    ["n_heads", "head_dim"],
                )
            object.__setattr__(self, "head_dim", self.dim // self.n_heads)
        if self.hidden_dim is None:
            object.__setattr__(self, "hidden_dim", -(-8 * self.dim // (3 * 32)) * 32)
        if self.hidden_dim < 1:  # type: ignore[operator]
            raise UserError(f"hidden_dim is {self.hidden_dim}: it must be at least 1", "hidden_dim")
        if self.head_dim < 2 or self.head_dim % 2:  # type: ignore[operator]
            raise UserError(
                f"head_dim is {self.head_dim}: RoPE rotates pairs, so it must be even", "head_dim"
            )
        if (weights := sum(self.parameter_counts().values())) > MOST_WEIGHTS:
            raise UserError(
                f"dim is {self.dim}: with the other sizes these are {weights:.1e} weights, more "
                "than any memory holds: check the sizes",
                "dim",
            )

    def _check_rope(self) -> None:
        for name in ("rope_theta", "rope_theta_local"):
            theta = getattr(self, name)
            if theta is not None and not 1.0 < theta < float("inf"):
                raise UserError(f"{name} is {theta}: it must be greater than 1", name)
        if self.rope_scaling not in SCALING:
            allowed = ", ".join(SCALING)
            raise UserError(
                f"rope_scaling is {self.rope_scaling!r}: one of {allowed}", "rope_scaling"
            )
        if not 1.0 <= self.rope_factor < float("inf"):
            raise UserError(
                f"rope_factor is {self.rope_factor}: it must be at least 1", "rope_factor"
            )
        if self.rope_original_len is not None and self.rope_original_len < 1:
            raise UserError(
                f"rope_original_len is {self.rope_original_len}: it must be at least 1",
                "rope_original_len",
            )
        if self.rope_scaling == "yarn" and self.rope_original_len is None:
            raise UserError(
                "rope_scaling yarn needs rope_original_len, the length in tokens of the sequences "
                "in training",
                "rope_scaling",
                ["rope_original_len"],
            )

    @property
    def sinks(self) -> int:
        """Number of positions that stay visible: the sink token and the first tokens."""
        return self.attention_sinks + self.sink_token

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window of each layer, `None` for full attention."""
        return layer_windows(self.sliding_window, self.n_layers)

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return (outputs, inputs) of each linear layer of a block; the keys are `LINEARS`."""
        assert self.head_dim is not None and self.hidden_dim is not None
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return {
            "wq": (queries, self.dim),
            "wk": (keys, self.dim),
            "wv": (keys, self.dim),
            "wo": (self.dim, queries),
            "w1": (self.hidden_dim, self.dim),
            "w2": (self.dim, self.hidden_dim),
            "w3": (self.hidden_dim, self.dim),
        }

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of weights in each part of the model; their sum is its size."""
        head_dim, hidden_dim = self.head_dim, self.hidden_dim
        assert head_dim is not None and hidden_dim is not None
        per_layer = {
            "attention": 2 * self.dim * head_dim * (self.n_heads + self.n_kv_heads),
            "feed_forward": 3 * self.dim * hidden_dim,
            "norms": 2 * self.dim,
        }
        counts = {name: self.n_layers * count for name, count in per_layer.items()}
        counts["norms"] += self.dim
        counts["tok_embeddings"] = self.vocab_size * self.dim
        counts["sinks"] = self.dim * self.sink_token
        counts["sinks"] += self.n_layers * self.n_heads * self.sink_logits
        counts["output"] = 0 if self.tie_embeddings else self.vocab_size * self.dim
        return counts


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of low rank beside frozen weights, see model/lora.py. `targets` are of `LINEARS`."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank

    def shapes(self, model: ModelConfig) -> dict[str, tuple[int, int]]:
        """Return the shapes of all adapters' matrices, under the names of the parameters."""
        linears, shapes = model.linear_shapes(), {}
        for layer in range(model.n_layers):
            for target in self.targets:
                outputs, inputs = linears[target]
                name = f"layers.{layer}.{LINEARS[target]}.{target}"
                shapes[f"{name}.lora_A"] = (self.rank, inputs)
                shapes[f"{name}.lora_B"] = (outputs, self.rank)
        return shapes

    def parameter_count(self, model: ModelConfig) -> int:
        """Return the number of trained weights."""
        linears = model.linear_shapes()
        return model.n_layers * self.rank * sum(sum(linears[target]) for target in self.targets)
