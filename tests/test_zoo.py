"""The zoo: bugs of published codebases, put into our own code, and the checks that find them.

Each bug is a few lines of monkeypatch. `python tests/test_zoo.py` prints a table: what is wrong,
where the bug was published, which of the checks in `checks/` found it. A bug that no check finds
means that a check is missing.

`published` names the thread that describes a bug, or the file that has it. Some of these lines are
right by the convention of their own project; they are bugs by the rule of `model/window.py`.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from checks import CHECKS, Check
from model import attention, cache, generation, kernels, native, rope, transformer, window
from model.config import ModelConfig
from model.kernels import Visibility, flex, scores
from model.native import decode
from model.native.build import refusal
from model.transformer import Transformer

W = 3  # the window of every model here, unless it has another
MASKS = flex.plain_block_mask
Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Bug:
    """A mutation of our code, the model it is tried with, and the check that must fail."""

    name: str
    what: str
    published: str
    caught_by: str
    model: dict[str, Any]
    apply: Callable[[Patch], None]


ZOO: list[Bug] = []

# Settings of the models. A bug without settings is tried with a window and nothing else.
MIXED: dict[str, Any] = {
    "sliding_window": (W, W, None),
    "rope_theta_local": 100.0,
    "rope_scaling": "linear",
    "rope_factor": 8.0,
}
SINKS: dict[str, Any] = {"attention_sinks": 2, "sink_logits": True}
YARN: dict[str, Any] = {"rope_scaling": "yarn", "rope_factor": 8.0, "rope_original_len": 64}


def bug(caught_by: str, published: str, **model: Any) -> Callable[..., Callable[[Patch], None]]:
    """Add a mutation to the zoo. Its docstring says what is wrong."""

    def keep(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        what = " ".join((apply.__doc__ or "").split())
        ZOO.append(Bug(apply.__name__, what, published, caught_by, model, apply))
        return apply

    return keep


def build(model: dict[str, Any]) -> Transformer:
    """Build a model of three layers in which every weight has an effect on the logits."""
    sizes = {"vocab_size": 61, "dim": 16, "n_layers": 3, "hidden_dim": 24, "n_heads": 4}
    built = Transformer(ModelConfig(**({"sliding_window": W, "n_kv_heads": 2} | sizes | model)))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            if "norm" in name:
                weight.copy_(1 + 0.2 * noise)
            else:
                small = weight.dim() == 2 and "tok" not in name
                weight.copy_(noise * (weight.shape[1] ** -0.5 if small else 1))
    return built


def everywhere(patch: Patch, ours: Any, theirs: Any) -> None:
    """Replace a function in all modules that have imported it."""
    name = ours.__name__
    for path, module in list(sys.modules.items()):
        if path.startswith(("model.", "checks.")) and getattr(module, name, None) is ours:
            patch.setattr(module, name, theirs)


def wrap(patch: Patch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace the function `name` of a module or class by `make(function)`."""
    patch.setattr(owner, name, make(getattr(owner, name)))


# The mask ------------------------------------------------------------------------------------


def in_band(patch: Patch, seen: Callable[[Any, int], Any]) -> None:
    """Let `seen(i - j, window)` decide which earlier keys are inside the window."""
    ours = window.visible

    def visible(i: Any, j: Any, window: int | None, sinks: int = 0, documents: Any = None) -> Any:
        past = ours(i, j, None, 0, documents)
        return past if window is None else past & (seen(i - j, window) | (j < sinks))

    everywhere(patch, ours, visible)


def in_cached_calls(patch: Patch, change: Callable[[Visibility, int, int], Visibility]) -> None:
    """Let `change(visibility, queries, keys)` decide what calls with a cache may see."""

    def make(attend: Any) -> Any:
        def changed(
            q: Tensor, k: Tensor, v: Tensor, seen: Visibility, *rest: Any, **options: Any
        ) -> Tensor:
            if seen.key_positions is not None:
                seen = change(seen, q.shape[2], k.shape[2])
            return attend(q, k, v, seen, *rest, **options)

        return changed

    wrap(patch, attention, "attend", make)


def cached(patch: Patch, window_of: Callable[[int, int], int | None]) -> None:
    """Give calls with a cache the window `window_of(window, tokens)`."""

    def change(seen: Visibility, length: int, _: int) -> Visibility:
        if seen.window is None:
            return seen
        return seen._replace(window=window_of(seen.window, length))

    in_cached_calls(patch, change)


@bug(
    "rule",
    "huggingface/transformers#39408, NVIDIA-NeMo/Megatron-Bridge#2656, ml-explore/mlx-lm#390, "
    "karpathy/nanochat#825, mistralai/mistral-inference#60, "
    "meta-pytorch/attention-gym sliding_window.py",
)
def one_key_too_many(patch: Patch) -> None:
    """W keys before the query's own key: W + 1 in all."""
    in_band(patch, lambda distance, window: distance <= window)


@bug("cache", "lightseekorg/tokenspeed#578")
def one_key_too_few_in_decoding(patch: Patch) -> None:
    """A decoded token sees W - 1 keys, its own included; a prompt is read with W."""
    cached(patch, lambda window, tokens: window - (tokens == 1))


@bug("perturbation", "huggingface/transformers#41184, repaired in #41228")
def mask_cut_on_the_wrong_side(patch: Patch) -> None:
    """tril instead of triu: the past is never hidden, and the far future is visible."""
    ours = window.visible

    def visible(i: Any, j: Any, window: int | None, sinks: int = 0, documents: Any = None) -> Any:
        past = ours(i, j, None, sinks, documents)
        return past if window is None else past | (j - i > window)

    everywhere(patch, ours, visible)


@bug(
    "windows",
    "facebookresearch/lingua apps/main/transformer.py (sdpa), unslothai/unsloth#8253, "
    "vllm-project/vllm-metal#282, ggml-org/llama.cpp#26848",
)
def window_ignored(patch: Patch) -> None:
    """The default kernel ignores the window: full attention, whatever the config says."""
    patch.setattr(kernels, "choose", lambda *_, **__: ("full", "the fastest"))


@bug("windows", "mistralai/mistral-inference args.py (`_sliding_window` beside `sliding_window`)")
def window_under_another_name(patch: Patch) -> None:
    """The config has a window, and the code reads another field, which is empty."""
    patch.setattr(ModelConfig, "windows", property(lambda self: (None,) * self.n_layers))


@bug("crop", "karpathy/nanochat#452, repaired in #456; ROCm/hip-ep#144")
def decoding_without_the_window(patch: Patch) -> None:
    """The mask is applied to prompts only: a decoded token sees every cached key. (A ring without
    spare slots holds the keys of the window and no other.)"""
    cached(patch, lambda window, tokens: None if tokens == 1 else window)


@bug("cache", "keras-team/keras-hub#1738")
def window_no_longer_than_the_chunk(patch: Patch) -> None:
    """The window is min(query length, W): a decoded token sees itself only."""
    cached(patch, min)


@bug("logits", "huggingface/transformers#38002, repaired in #38045", **MIXED)
def window_where_it_is_off(patch: Patch) -> None:
    """Layers with full attention get the window of the other layers."""

    def make(configure: Any) -> Any:
        def narrowed(self: Any, config: ModelConfig, layer: int) -> None:
            configure(self, config, layer)
            self.window = W

        return narrowed

    wrap(patch, attention.Attention, "configure", make)


@bug("rule", "huggingface/transformers#35896 and #38787 (max_window_layers)", **MIXED)
def windows_in_the_other_layers(patch: Patch) -> None:
    """The pattern of windows is reversed: the layers meant to be full have the window."""
    ours = window.layer_windows
    everywhere(patch, ours, lambda pattern, n_layers: ours(pattern, n_layers)[::-1])


@bug("logits", "tenstorrent/tt-metal#35749", sliding_window=(W, 1), attention="flex")
def mask_kept_under_too_few_names(patch: Patch) -> None:
    """Compiled masks are stored by length and not by window: all layers use that of the first."""
    made: dict[int, Any] = {}

    def make(block_mask: Any) -> Any:
        def looked_up(length: int, *rest: Any) -> Any:
            if length not in made:
                made[length] = block_mask(length, *rest)
            return made[length]

        return looked_up

    wrap(patch, flex, "plain_block_mask", make)


@bug("ragged", "unslothai/unsloth#9848, pytorch/pytorch#103749, lablup/mlxcel#679")
def rows_that_see_nothing_are_nan(patch: Patch) -> None:
    """Hidden scores are -inf: the softmax of padding is NaN, and 0 * NaN spreads to other rows."""

    def masked_softmax(scores: Tensor, mask: Tensor, return_lse: bool = False) -> Any:
        scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1), scores.logsumexp(-1)

    everywhere(patch, scores.masked_softmax, masked_softmax)


# The arithmetic of attention -----------------------------------------------------------------


def queries(patch: Patch, change: Callable[..., tuple[Any, Any, Any]]) -> None:
    """Let `change(q, q_sinks, sink_logits)` replace what the layer passes to its kernels."""

    def make(kernel: Any) -> Any:
        def attend(q: Tensor, *rest: Any, **options: Any) -> Tensor:
            names = ("q_sinks", "sink_logits")
            q, *changed = change(q, *(options.get(name) for name in names))
            return kernel(q, *rest, **(options | dict(zip(names, changed, strict=True))))

        return attend

    wrap(patch, attention, "attend", make)


def learned(patch: Patch, change: Callable[[Tensor, int], Tensor]) -> None:
    """Let `change(sink_logits, head_dim)` replace the learned logits, if the model has any."""

    def changed(q: Tensor, far: Any, logits: Tensor | None) -> tuple[Any, Any, Any]:
        return q, far, None if logits is None else change(logits, q.shape[-1])

    queries(patch, changed)


@bug("logits", "mlc-ai/mlc-llm#3426")
def scale_left_out(patch: Patch) -> None:
    """Scores are not divided by the square root of the head's size."""
    queries(patch, lambda q, far, logits: (q * q.shape[-1] ** 0.5, far, logits))


@bug("logits", "huggingface/transformers#38277, repaired in #38290")
def scale_applied_twice(patch: Patch) -> None:
    """The layer scales its queries, and the kernel scales them again."""
    queries(patch, lambda q, far, logits: (q / q.shape[-1] ** 0.5, far, logits))


@bug("logits", "onnx/onnx#7274, apple/axlearn#842")
def heads_tiled(patch: Patch) -> None:
    """Key heads are repeated 0 1 0 1 where the query heads are grouped 0 0 1 1."""

    def make(kernel: Any) -> Any:
        def attend(q: Tensor, k: Tensor, *rest: Any, **options: Any) -> Tensor:
            order = torch.arange(q.shape[1]).unflatten(0, (-1, k.shape[1])).T.flatten()
            return kernel(q[:, order], k, *rest, **options)[:, order.argsort()]

        return attend

    wrap(patch, attention, "attend", make)


@bug("logits", "vllm-project/vllm-metal#550", **SINKS)
def sink_logits_never_reach_the_kernel(patch: Patch) -> None:
    """The learned logits are loaded and not passed to the kernel."""
    queries(patch, lambda q, far, logits: (q, far, None))


@bug("logits", "ROCm/rocm-libraries#12227 (second part)", **SINKS)
def sink_logits_scaled(patch: Patch) -> None:
    """The learned logits are divided by the square root of the head's size, as scores are."""
    learned(patch, lambda logits, head_dim: logits * head_dim**-0.5)


@bug("logits", "ROCm/rocm-libraries#12227 (first part)", **SINKS)
def sink_logits_counted_twice(patch: Patch) -> None:
    """Both parts of a softmax that is computed in two parts include the learned logit."""
    learned(patch, lambda logits, _: logits + math.log(2))


# Rotary positions ----------------------------------------------------------------------------


def positions(patch: Patch, change: Callable[[Tensor], Tensor], cached_only: bool = False) -> None:
    """Rotate at `change(positions)`."""

    def make(rotation: Any) -> Any:
        def rotated(at: Tensor, *rest: Any) -> Tensor:
            return rotation(at if cached_only and at.dim() == 1 else change(at), *rest)

        return rotated

    wrap(patch, transformer, "rotation", make)


def from_zero(at: Tensor) -> Tensor:
    """Return positions 0..T-1 instead of those given, (B, T)."""
    return torch.arange(at.shape[1]).expand_as(at)


@bug("precision", "huggingface/candle#3520, huggingface/transformers#29285, nkalyanv99/UNI-D2#6")
def positions_in_bf16(patch: Patch) -> None:
    """Positions have the model's dtype: in bf16, 257 is 256."""
    positions(patch, lambda at: at.bfloat16().long())


@bug("logits", "sgl-project/sglang-jax#1473")
def frequencies_in_bf16(patch: Patch) -> None:
    """Frequencies are rounded to the model's dtype before they are multiplied with positions."""
    ours = rope.frequencies
    everywhere(patch, ours, lambda *args: ours(*args).bfloat16().double())


@bug(
    "precision",
    "mistralai/mistral-inference one_file_ref.py (a table of 128,000), OpenNMT/OpenNMT-py#2561",
)
def table_of_rotations_ends(patch: Patch) -> None:
    """Rotations are read from a table, and a long text exceeds it (IndexError)."""

    def make(rotation: Any) -> Any:
        def looked_up(at: Tensor, *rest: Any) -> Tensor:
            table = rotation(torch.arange(1024), *rest)  # (1, 1024, Dh / 2)
            return table[0][at].unsqueeze(-3)

        return looked_up

    wrap(patch, transformer, "rotation", make)


@bug("logits", "Dao-AILab/flash-attention#288, karpathy/nanochat#264")
def halves_for_neighbours(patch: Patch) -> None:
    """Weights trained for pairs (2n, 2n + 1) are rotated in pairs (n, n + Dh / 2)."""

    def make(rotate: Any) -> Any:
        def halves(x: Tensor, rotation: Tensor) -> Tensor:
            neighbours = x.unflatten(-1, (2, -1)).mT.flatten(-2)
            return rotate(neighbours, rotation).unflatten(-1, (-1, 2)).mT.flatten(-2)

        return halves

    wrap(patch, attention, "rotate", make)


def configured(patch: Patch, change: Callable[[Any, ModelConfig, Any, int], None]) -> None:
    """Let `change(attention, config, configure, layer)` configure each layer."""

    def make(configure: Any) -> Any:
        return lambda self, config, layer: change(self, config, configure, layer)

    wrap(patch, attention.Attention, "configure", make)


@bug("logits", "Avarok-Cybersecurity/atlas#276", **MIXED)
def one_theta_for_all_layers(patch: Patch) -> None:
    """Layers with a window rotate with the theta of full layers: the code has one theta."""

    def share(self: Any, config: ModelConfig, configure: Any, layer: int) -> None:
        configure(self, replace(config, rope_theta_local=None), layer)

    configured(patch, share)


@bug("logits", "vllm-project/vllm#29111, ollama/ollama#13452, antonellof/ferrox#39", **MIXED)
def scaling_in_local_layers(patch: Patch) -> None:
    """Positions are scaled in layers with a window too, which were trained without scaling."""

    def scale(self: Any, config: ModelConfig, configure: Any, layer: int) -> None:
        configure(self, config, layer)
        self.rope = replace(self.rope, scaling=config.rope_scaling, factor=config.rope_factor)

    configured(patch, scale)


@bug("logits", "lablup/mlxcel#1340, Blaizzy/mlx-vlm#1709", **MIXED)
def scaling_parsed_and_never_read(patch: Patch) -> None:
    """The config's rope_scaling is accepted and has no effect."""

    def plain(self: Any, config: ModelConfig, configure: Any, layer: int) -> None:
        configure(self, replace(config, rope_scaling="none", rope_factor=1.0), layer)

    configured(patch, plain)


@bug("logits", "turboderp-org/exllamav3#259", **YARN)
def yarn_without_its_temperature(patch: Patch) -> None:
    """YaRN's frequencies are used without its sharper softmax: the factor is 1."""
    patch.setattr(rope.Rope, "magnitude", property(lambda self: 1.0))


@bug("cache", "rajveer43/VeloxQuant-MLX#389")
def positions_frozen_at_the_window(patch: Patch) -> None:
    """The next position is the number of cached keys, which stops growing at W."""
    positions(patch, lambda at: at.clamp(max=W), cached_only=True)


@bug("cache", "lucidrains/rotary-embedding-torch#11, pytorch/executorch#2010")
def every_chunk_begins_at_zero(patch: Patch) -> None:
    """Rotations are stored by the length of a chunk, whatever its position."""
    positions(patch, from_zero, cached_only=True)


# The ring ------------------------------------------------------------------------------------


def reading(patch: Patch, change: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
    """Let `change(ring, read, k, v, positions)` replace what a chunk attends over."""

    def make(update: Any) -> Any:
        return lambda ring, *new: change(ring, update(ring, *new), *new)

    wrap(patch, cache.Ring, "update", make)


def writing(
    patch: Patch,
    slot_of: Callable[[int, int], int],
    keep: Callable[[Tensor], Tensor] = torch.detach,
) -> None:
    """Write position p, counted after the sinks, to slot `slot_of(p, size)` of the ring."""

    def write(ring: Any, k: Tensor, v: Tensor, positions: Tensor, kept: Tensor) -> None:
        for row, column in kept.nonzero().tolist():
            p = int(positions[row, column])
            slot = p if p < ring.sinks else ring.sinks + slot_of(p - ring.sinks, ring.size)
            ring.k[row, :, slot] = keep(k[row, :, column])
            ring.v[row, :, slot] = keep(v[row, :, column])
            ring.positions[row, slot] = p

    patch.setattr(cache.Ring, "_write", write)


def by_index(patch: Patch, first: Callable[[int, int], int]) -> None:
    """Mask a call with a cache by index: keys 0..S-1, queries from `first(T, S)` on."""

    def change(seen: Visibility, length: int, n_keys: int) -> Visibility:
        assert seen.key_positions is not None
        i = first(length, n_keys) + torch.arange(length)
        j = torch.where(seen.key_positions < 0, -1, torch.arange(n_keys))
        return seen._replace(positions=i.expand(len(j), -1), key_positions=j)

    in_cached_calls(patch, change)


@bug("cache", "pytorch/pytorch#108108 and #144858, onnx/onnx#8054, trymirai/lalamo#200")
def mask_without_an_offset(patch: Patch) -> None:
    """The mask of T queries and S keys is aligned top left: the first query sees key 0 only."""
    by_index(patch, lambda length, n_keys: 0)


@bug("cache", "ml-explore/mlx-examples#1000, ollama/ollama#14912")
def ring_read_as_if_in_order(patch: Patch) -> None:
    """A mask by index hides the wrong keys of a ring that has wrapped around."""
    by_index(patch, lambda length, n_keys: n_keys - length)


@bug("cache", "Lightning-AI/litgpt#2182, refused since #2215")
def write_before_attend(patch: Patch) -> None:
    """A chunk is written before it attends, with a mask by slot: its first queries miss keys and
    see later ones."""

    def through_the_ring(ring: Any, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        slots = torch.arange(ring.positions.shape[1])
        return ring.k, ring.v, torch.where(ring.positions < 0, -1, slots)

    reading(patch, through_the_ring)
    cached(patch, lambda window, tokens: None)


@bug("cache", "lablup/mlxcel#679 and #412")
def cut_to_the_window_before_attending(patch: Patch) -> None:
    """Cached and new keys are cut to the last W before the chunk attends to them."""

    def cut(ring: Any, read: Any, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v, at = read
        return k, v, at.masked_fill(at <= at.amax(1, keepdim=True) - ring.size, -1)

    reading(patch, cut)


@bug("cache", "huggingface/transformers#37574, repaired in #38046")
def rolled_one_step_early(patch: Patch) -> None:
    """At exactly W tokens the first key is dropped, while the query still sees it."""

    def roll(ring: Any, read: Any, *new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v, at = read
        full = at.amax(1, keepdim=True) == ring.size - 1
        return k, v, at.masked_fill((at == 0) & full, -1)

    reading(patch, roll)


@bug("cache", "huggingface/transformers#47708, awslabs/keys_values#140")
def slot_off_by_one_after_the_wrap(patch: Patch) -> None:
    """The first key after the ring is full overwrites the newest, which is still needed."""
    writing(patch, lambda p, size: (p - (p == size)) % size)


@bug("cache", "JaydenLyh/Reward-Forcing#5")
def newest_evicted(patch: Patch) -> None:
    """A full ring overwrites its newest key instead of its oldest."""
    writing(patch, lambda p, size: min(p, size - 1))


@bug("cache", "NeuraLegion/shainet#110 (review), EleutherAI/gpt-neox#363")
def rotated_again_when_read(patch: Patch) -> None:
    """Keys are rotated before they are cached, and again each time they are read."""

    def again(ring: Any, read: Any, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v, at = read
        slots = ring.positions.shape[1]
        twice = rope.rotation(at[:, :slots], k.shape[-1], rope.Rope(10_000.0), k.dtype)
        return torch.cat((rope.rotate(k[:, :, :slots], twice), k[:, :, slots:]), dim=2), v, at

    reading(patch, again)


@bug("memory", "vivekkalyanarangan30/llm_from_scratch#3, Lightning-AI/litgpt#2153")
def cache_that_grows(patch: Patch) -> None:
    """The window is in the mask only: the cache keeps every token."""
    grow(patch, lambda ring: True)


@bug("memory", "huggingface/transformers cache_utils.py (`[:, :, -W + 1:]`)", sliding_window=1)
def everything_kept_at_window_one(patch: Patch) -> None:
    """The slice [-(W - 1):] keeps the last W - 1 keys, and all of them for W = 1."""
    grow(patch, lambda ring: ring.size == 1)


def grow(patch: Patch, never_forgets: Callable[[Any], bool]) -> None:
    """Append to a ring instead of writing into it."""

    def make(update: Any) -> Any:
        def append(ring: Any, k: Tensor, v: Tensor, positions: Tensor) -> Any:
            if not never_forgets(ring):
                return update(ring, k, v, positions)
            ring.k, ring.v = torch.cat((ring.k, k), 2), torch.cat((ring.v, v), 2)
            ring.positions = torch.cat((ring.positions, positions), 1)
            return ring.k, ring.v, ring.positions

        return append

    wrap(patch, cache.Ring, "update", make)


@bug("memory", "meta-llama/llama-cookbook#247, wyf3/llm_related#7")
def graph_kept_in_the_cache(patch: Patch) -> None:
    """Cached tensors are not detached: each call keeps the graphs of all earlier calls alive."""
    writing(patch, lambda p, size: p % size, keep=lambda x: x)


# Rows of different length --------------------------------------------------------------------


@bug("ragged", "huggingface/transformers#30670")
def padding_seen(patch: Patch) -> None:
    """Padding is not masked: its keys are at position 0 and visible."""

    def pads(ring: Any, read: Any, k: Tensor, v: Tensor, at: Tensor) -> Any:
        if at.shape[1] == 1:
            return read
        return *read[:2], torch.cat((read[2][:, : -at.shape[1]], at.clamp(min=0)), dim=1)

    reading(patch, pads)


@bug("ragged", "unslothai/unsloth#3699")
def rows_share_a_position(patch: Patch) -> None:
    """A decoding step gives every row the position of the longest row."""

    def make(assign_positions: Any) -> Any:
        def shared(self: Any, tokens: Tensor) -> Tensor:
            at = assign_positions(self, tokens)
            return at.amax(0, keepdim=True).expand_as(at) if tokens.shape[1] == 1 else at

        return shared

    wrap(patch, cache.RollingKVCache, "assign_positions", make)


# Sinks ---------------------------------------------------------------------------------------


@bug(
    "sinks",
    "mit-han-lab/streaming-llm#60, NVIDIA/kvpress#158, Zefan-Cai/KVCache-Factory#19",
    **SINKS,
)
def sinks_recede(patch: Patch) -> None:
    """Distances to sinks are those in the text, and exceed all distances of training."""
    everywhere(patch, window.sink_view, lambda at, *_: at)


@bug("cache", "huggingface/transformers#33691 and #35350", **SINKS)
def new_key_left_behind_the_shift(patch: Patch) -> None:
    """Cached keys are rotated back to positions in the cache; the query and the new key are not."""

    def shift(ring: Any, read: Any, *new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v, at = read
        slots, newest = ring.positions.shape[1], new[2].amax(1, keepdim=True)
        cached = (torch.arange(slots) >= ring.sinks) & (at[:, :slots] != newest)
        back = (slots - 1 - newest).clamp(max=0) * cached
        shifted = rope.rotation(back, k.shape[-1], rope.Rope(10_000.0), k.dtype)
        return torch.cat((rope.rotate(k[:, :, :slots], shifted), k[:, :, slots:]), dim=2), v, at

    reading(patch, shift)


@bug("cache", "rajveer43/VeloxQuant-MLX#91", **SINKS)
def sinks_of_every_chunk(patch: Patch) -> None:
    """Each chunk of a prompt writes its own first tokens to the slots of the sinks."""

    def anchor(ring: Any, read: Any, k: Tensor, v: Tensor, at: Tensor) -> Any:
        if at.shape[1] >= ring.sinks > 0:
            ring.k[:, :, : ring.sinks] = k[:, :, : ring.sinks].detach()
            ring.v[:, :, : ring.sinks] = v[:, :, : ring.sinks].detach()
        return read

    reading(patch, anchor)


# Documents -----------------------------------------------------------------------------------


@bug(
    "documents", "huggingface/nanoVLM#204, alex-hh/profam#495, DeepOpt-com/WrinkleFree-Monorepo#53"
)
def documents_leak(patch: Patch) -> None:
    """Positions start again in each document, and attention crosses from one to the next."""
    ours = window.visible
    everywhere(patch, ours, lambda i, j, window, sinks=0, _=None: ours(i, j, window, sinks))


@bug("documents", "huggingface/nanoVLM#201", **SINKS)
def positions_run_on(patch: Patch) -> None:
    """Positions count through the whole row: only its first document has sinks. (Without sinks
    there is no difference: rotations are relative.)"""
    ours = transformer.number_documents

    def run_on(documents: Tensor) -> tuple[Tensor, Tensor]:
        return ours(documents)[0], torch.arange(documents.shape[1]).expand_as(documents)

    everywhere(patch, ours, run_on)


# Going back, saving, using again -------------------------------------------------------------


@bug("crop", "openvinotoolkit/openvino#37620 (review)")
def crop_after_the_wrap(patch: Patch) -> None:
    """Only the count is reset; the keys that were overwritten are missing without an error."""
    patch.setattr(cache.Ring, "can_continue", lambda ring, at, _: torch.ones_like(at).bool())


@bug("crop", "ml-explore/mlx-swift-lm#424")
def crop_that_does_nothing(patch: Patch) -> None:
    """After the ring has wrapped around, a crop does nothing: rejected tokens stay."""

    def make(crop: Any) -> Any:
        def silent(self: Any, length: int | Sequence[int]) -> None:
            if not any(int(ring.positions.max()) >= ring.size for ring in self.layers):
                crop(self, length)

        return silent

    wrap(patch, cache.RollingKVCache, "crop", make)


@bug("restore", "ggml-org/llama.cpp#25297")
def restored_in_another_order(patch: Patch) -> None:
    """A saved ring is restored in order of position: the next token overwrites the wrong key."""

    def make(load: Any) -> Any:
        def contiguous(self: Any, state: Any) -> None:
            load(self, state)
            for ring in self.layers:
                order = torch.where(ring.positions < 0, 2**40, ring.positions).argsort(dim=1)
                ring.positions.copy_(ring.positions.gather(1, order))
                for x in (ring.k, ring.v):
                    x.copy_(x.gather(2, order[:, None, :, None].expand_as(x)))

        return contiguous

    wrap(patch, cache.RollingKVCache, "load_state_dict", make)


@bug("rescore", "LostRuins/koboldcpp#2158, Lightning-AI/litgpt#1647")
def cache_of_the_last_text(patch: Patch) -> None:
    """A second generation starts with the cache that the first one filled."""
    made: dict[Any, Any] = {}

    def make(ours: Any) -> Any:
        def used(*args: Any) -> Any:
            key = repr(args)
            made[key] = made.get(key) or ours(*args)
            return made[key]

        return used

    wrap(patch, generation, "RollingKVCache", make)


# Tests ---------------------------------------------------------------------------------------


def run_with(bug: Bug, patch: Patch, names: Sequence[str]) -> list[Check]:
    """Run the named checks with the bug applied."""
    bug.apply(patch)
    MASKS.cache_clear()  # masks of one rule must not be used with another
    try:
        model = build(bug.model)
        return [CHECKS[name](model) for name in names]
    finally:
        patch.undo()
        MASKS.cache_clear()


@pytest.mark.parametrize("bug", ZOO, ids=lambda bug: bug.name)
def test_the_named_check_finds_it(bug: Bug, monkeypatch: Patch) -> None:
    """A published bug could enter this code, and no check would fail."""
    [check] = run_with(bug, monkeypatch, [bug.caught_by])
    assert not check.holds, f"{check.name} did not find it: {check}"
    crashes = "IndexError" in bug.what
    assert ("Error:" in check.note) == crashes, f"the mutation itself is broken: {check.note}"


def first_key_of_native_attention(patch: Patch) -> None:
    """Let each query of native attention see a key too many: W + 1."""

    def make(first_keys: Any) -> Any:
        def wide(seen: Visibility, length: int) -> Tensor:
            window = None if seen.window is None else seen.window + 1
            return first_keys(seen._replace(window=window), length)

        return wide

    wrap(patch, kernels.native, "first_keys", make)


def window_of_the_native_step(patch: Patch, more: int = 1) -> None:
    """Let each native decoding step see W + `more` keys."""

    def make(describe: Any) -> Any:
        def changed(*args: Any) -> Any:
            layer = describe(*args)
            layer.window += more
            return layer

        return changed

    wrap(patch, decode.NativeModel, "_layer", make)


def narrow_window_of_the_native_step(patch: Patch) -> None:
    """Let each native decoding step see W - 1 keys."""
    window_of_the_native_step(patch, -1)


WHY_NOT = {"attention": native.training_refusal(), "step": refusal("decode", bf16=False)}


@pytest.mark.parametrize("model", [{}, SINKS], ids=["window", "sinks"])
@pytest.mark.parametrize(
    ("kernel", "apply", "caught_by"),
    [
        ("attention", first_key_of_native_attention, ["mask", "rounding"]),
        ("step", window_of_the_native_step, ["step"]),
        ("step", narrow_window_of_the_native_step, ["step"]),
    ],
)
def test_native_kernels_are_checked_too(
    kernel: str, apply: Any, caught_by: list[str], model: dict[str, Any], monkeypatch: Patch
) -> None:
    """A window could be wrong in C++ only, which computes in no dtype of the other checks."""
    if reason := WHY_NOT[kernel]:
        pytest.skip(reason)
    fits = {"dim": 64} | model  # heads of 16 numbers
    for applied in (apply, lambda patch: None):
        tried = Bug(kernel, "", "", "", fits, applied)
        found = [check.name for check in run_with(tried, monkeypatch, list(CHECKS))
                 if not check.holds]  # fmt: skip
        assert found == (caught_by if applied is apply else [])


def test_without_a_bug_every_check_holds() -> None:
    """A check that always fails would find every bug."""
    for described in sorted({json.dumps(bug.model, sort_keys=True) for bug in ZOO}):
        model = build(json.loads(described))
        failed = [check for name in CHECKS if not (check := CHECKS[name](model)).holds]
        assert not failed, f"{described}: {failed}"


def test_each_is_another_bug() -> None:
    """Duplicates would make the zoo seem larger than it is."""
    assert len({bug.what for bug in ZOO}) == len({bug.name for bug in ZOO}) == len(ZOO) >= 24
    assert all(bug.published and bug.caught_by in CHECKS for bug in ZOO)


def main() -> None:
    """Print the table: each bug, where it was published, and all checks that found it (! marks one
    that ended in an exception)."""
    print("| bug | published in | found by |\n| --- | --- | --- |")
    for bug in ZOO:
        with pytest.MonkeyPatch.context() as patch:
            checks = run_with(bug, patch, list(CHECKS))
        failed = [check for check in checks if not check.holds]
        caught = [check.name + "!" * ("Error:" in check.note) for check in failed]
        print(f"| {bug.what} | {bug.published} | {', '.join(caught) or 'NOTHING'} |", flush=True)


if __name__ == "__main__":
    main()
