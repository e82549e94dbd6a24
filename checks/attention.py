"""What attention computes: the rule, the kernels, the whole model, its gradients and roundings."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from checks import oracle
from checks.proof import Found, proof
from checks.subject import Subject, each, fed, gap, must, slopes
from model import kernels as ways
from model import window as owner


@proof("a row sees min(i + 1, W) keys and its sinks, no other")
def rule(on: Subject) -> Found:
    yield must(list(on.config.windows) == on.windows)
    yield must(on.config.sinks == on.config.attention_sinks + on.config.sink_token)
    if None not in on.windows:
        yield must(owner.reach(on.windows) == 1 + sum(window - 1 for window in on.finite))
    for window, sinks in on.kinds:
        at = torch.arange(on.past)
        mask = owner.visible(at[:, None], at, window, sinks)
        for i, row in enumerate(mask):
            yield must(row.nonzero().flatten().tolist() == oracle.keys_of(i, window, sinks))
        for i in (0, on.width - 1, on.width, on.past - 1):
            seen = [j for j in range(on.past) if owner.visible(i, j, window, sinks)]
            yield must(seen == oracle.keys_of(i, window, sinks))
        counts = [len(oracle.keys_of(i, window, sinks)) for i in range(on.past)]
        yield must(owner.visible_pairs(on.past, window, sinks) == sum(counts))


@proof("kernels and their gradients equal a loop over rows", 1e-11)
@torch.enable_grad()
def kernels(on: Subject) -> Found:
    for window, sinks in on.kinds:
        w = window or on.width
        for length in sorted({1, w - 1, w, w + 1, on.past} - {0}):
            inputs, parts = _parts(on, length, window, sinks)
            expected = oracle.attention(**parts, window=window, sinks=sinks)
            weigh = on.noise(*expected.shape)
            wanted = slopes(expected, weigh, inputs)
            for ours in _by_each_kernel(on, parts, window, sinks):
                first = length - ours.shape[2]  # where only the last queries were asked for
                yield gap(ours, expected[:, :, first:])
                if not first and ours.requires_grad:
                    yield max(map(gap, slopes(ours, weigh, inputs), wanted))


def _parts(
    on: Subject, length: int, window: int | None, sinks: int
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Random numbers in the shapes of the model's heads, and what attention takes, made of them."""
    shape = on.config
    assert shape.head_dim is not None
    q, far = on.noise(2, 1, shape.n_heads, length, shape.head_dim).requires_grad_().unbind()
    k, v = on.noise(2, 1, shape.n_kv_heads, length, shape.head_dim).requires_grad_().unbind()
    inputs, parts = [q, k, v], {"q": q, "k": k, "v": v}
    if sinks and window is not None:
        # Sinks are looked at from where the query stands, or from the window's end behind them.
        near = window + sinks
        parts["q_sinks"] = torch.cat((q[:, :, :near], far[:, :, near:]), dim=2)
        inputs.append(far)
    if shape.sink_logits:
        parts["sink_logits"] = on.noise(shape.n_heads).requires_grad_()
        inputs.append(parts["sink_logits"])
    return inputs, parts


def _by_each_kernel(
    on: Subject, parts: dict[str, Tensor], window: int | None, sinks: int
) -> Iterator[Tensor]:
    """The same attention from every kernel, and from `dense` in all the ways it is used."""
    q, k, v = (parts[name] for name in "qkv")
    more: dict[str, Any] = {name: parts[name] for name in parts.keys() - {"q", "k", "v"}}
    at, text = torch.arange(q.shape[2])[None], ways.Visibility(window, sinks)
    yield ways.attend_with("dense", q, k, v, text, **more)
    # As a ring holds keys: in any order behind the sinks, and one slot empty.
    front, empty = min(sinks, at.shape[1]), on.noise(*k[:, :, :1].shape)
    order = torch.cat((torch.arange(front), front + on.order(at.shape[1] - front)))
    keys, values = (torch.cat((x[:, :, order], empty), dim=2) for x in (k, v))
    held = torch.cat((at[:, order], torch.tensor([[-1]])), dim=1)
    yield ways.attend(q, keys, values, ways.Visibility(window, sinks, at, held), **more)
    last = at[:, at.shape[1] // 2 :]
    asked = {name: x[:, :, last[0]] if name == "q_sinks" else x for name, x in more.items()}
    seen = ways.Visibility(window, sinks, last, at)
    yield ways.attend(q[:, :, last[0]], k, v, seen, **asked)
    if window is not None:
        yield ways.attend_with("blocked", q, k, v, text, **more)
    yield ways.attend(q, k, v, text, "auto", **more)
    if "flex" in on.kernels:  # forward only: it has no gradients on a CPU
        q, k, v = (x.detach() for x in (q, k, v))
        more = {name: x.detach() for name, x in more.items()}
        yield ways.attend_with("flex", q, k, v, text, **more)


@proof("logits equal those of the whole model in loops", 1e-10)
def logits(on: Subject) -> Found:
    tokens = on.text(on.past)
    expected = on.expected(tokens)
    for way in ("auto", *on.kernels, "cache"):
        yield from each(on.run(way, tokens)[-1], expected)


@proof("gradients of all weights equal those of the loops", 1e-9)
@torch.enable_grad()
def gradients(on: Subject) -> Found:
    tokens = on.text(on.past)
    weigh = on.noise(on.past, on.config.vocab_size)
    wanted = slopes(on.expected(tokens), weigh, list(on.model.parameters()))
    for model in (on.model, on.twin(attention="dense")):
        yield from map(gap, slopes(model(tokens)[0], weigh, list(model.parameters())), wanted)


@proof("fp32 and bf16 err by so many roundings at most", 32.0)
def precision(on: Subject) -> Found:
    tokens = on.text(on.past)
    for dtype in (torch.float32, torch.bfloat16):
        for kernel in on.kernels:
            low, exact = _lowered(on.twin(attention=kernel), dtype)
            yield _roundings(low(tokens), exact(tokens))
        # Sinks stand at the beginning of a text, so the text that begins far out has none.
        low, exact = _lowered(on.twin(sink_token=False, attention_sinks=0), dtype)
        for begin in (0, 100_000):
            cache = on.cache(model=low, dtype=dtype)
            cache.first_position += begin
            yield _roundings(fed(low, cache, tokens, on.width + 1), exact(tokens))


def _lowered(model: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model in `dtype`, and in float64 with the same, already rounded, weights."""
    low = copy.deepcopy(model).to(dtype)
    return low, copy.deepcopy(low).double()


def _roundings(ours: Tensor, exact: Tensor) -> float:
    """The error as a share of the whole, in units of the dtype's rounding."""
    error = (ours.double() - exact).norm() / exact.norm()
    return error.item() / torch.finfo(ours.dtype).eps
