"""Checks of what attention computes: the rule, the kernels, the logits, the gradients, rounding."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from checks import oracle
from checks.check import Findings, check
from checks.differences import max_difference, require, rounding_error, row_differences
from checks.fixture import Fixture, rounded
from checks.passes import cached_logits, weighted_gradients
from model.kernels import Visibility, attend, attend_with
from model.window import reach, visible, visible_pairs


@check("rule", "row i sees min(i + 1, W) keys and its sinks, no others")
def check_rule(fixture: Fixture) -> Findings:
    config, length, finite = fixture.config, fixture.length, fixture.finite_windows
    yield require(list(config.windows) == fixture.windows)
    yield require(config.sinks == config.attention_sinks + config.sink_token)
    if None not in fixture.windows:
        yield require(reach(fixture.windows) == 1 + sum(window - 1 for window in finite))
    positions = torch.arange(length)
    for window, sinks in fixture.layer_kinds:
        expected = [oracle.visible_keys(i, window, sinks) for i in range(length)]
        mask = visible(positions[:, None], positions, window, sinks)
        for row, keys in zip(mask, expected, strict=True):
            yield require(row.nonzero().flatten().tolist() == keys)
        for i in (0, fixture.widest - 1, fixture.widest, length - 1):  # integers, not tensors
            keys = [j for j in range(length) if visible(i, j, window, sinks)]
            yield require(keys == expected[i])
        yield require(visible_pairs(length, window, sinks) == sum(map(len, expected)))


@check("kernels", "kernels and their gradients equal a loop over rows", 1e-11)
@torch.enable_grad()
def check_kernels(fixture: Fixture) -> Findings:
    for window, sinks in fixture.layer_kinds:
        width = window or fixture.widest
        for length in sorted({1, width - 1, width, width + 1, fixture.length} - {0}):
            leaves, arguments = attention_inputs(fixture, length, window, sinks)
            expected = oracle.attention(**arguments, window=window, sinks=sinks)
            weights = fixture.noise(*expected.shape)
            expected_gradients = weighted_gradients(expected, weights, leaves)
            for actual in _kernel_outputs(fixture, arguments, window, sinks):
                first = length - actual.shape[2]  # above 0 if only the last queries were computed
                yield max_difference(actual, expected[:, :, first:])
                if not first and actual.requires_grad:
                    gradients = weighted_gradients(actual, weights, leaves)
                    yield max(map(max_difference, gradients, expected_gradients))


def attention_inputs(
    fixture: Fixture, length: int, window: int | None, sinks: int
) -> tuple[list[Tensor], dict[str, Any]]:
    """Draw the inputs of attention in the shapes of the model's heads.

    Returns the leaf tensors, which get gradients, and the arguments that are made from them.
    """
    config = fixture.config
    assert config.head_dim is not None
    query_shape = (2, 1, config.n_heads, length, config.head_dim)
    key_shape = (2, 1, config.n_kv_heads, length, config.head_dim)
    q, distant = fixture.noise(*query_shape).requires_grad_().unbind()
    k, v = fixture.noise(*key_shape).requires_grad_().unbind()
    leaves: list[Tensor] = [q, k, v]
    arguments: dict[str, Any] = {"q": q, "k": k, "v": v}
    if sinks and window is not None:
        # From position W + n on, queries have another rotation for sinks (`window.sink_view`).
        first = window + sinks
        arguments["q_sinks"] = torch.cat((q[:, :, :first], distant[:, :, first:]), dim=2)
        leaves.append(distant)
    if config.sink_logits:
        arguments["sink_logits"] = fixture.noise(config.n_heads).requires_grad_()
        leaves.append(arguments["sink_logits"])
    return leaves, arguments


def _kernel_outputs(
    fixture: Fixture, arguments: dict[str, Any], window: int | None, sinks: int
) -> Iterator[Tensor]:
    """Yield the output of every kernel, and of cached attention with keys and queries of a ring."""
    q, k, v = (arguments[name] for name in "qkv")
    options = {name: arguments[name] for name in arguments.keys() - {"q", "k", "v"}}
    length, uncached = q.shape[2], Visibility(window, sinks)
    yield attend_with("dense", q, k, v, uncached, **options)
    # The slots of a ring: first the sinks, then the other keys in any order, then an empty slot.
    positions, n_front = torch.arange(length)[None], min(sinks, length)
    empty = fixture.noise(*k[:, :, :1].shape)
    others = n_front + fixture.permutation(length - n_front)
    order = torch.cat((torch.arange(n_front), others))
    keys, values = (torch.cat((x[:, :, order], empty), dim=2) for x in (k, v))
    slots = torch.cat((positions[:, order], torch.tensor([[-1]])), dim=1)
    yield attend(q, keys, values, Visibility(window, sinks, positions, slots), **options)
    # The second half of the queries, with a cache that holds all keys.
    last = positions[:, length // 2 :]
    last_options = {
        name: x[:, :, last[0]] if name == "q_sinks" else x for name, x in options.items()
    }
    cached = Visibility(window, sinks, last, positions)
    yield attend(q[:, :, last[0]], k, v, cached, **last_options)
    if window is not None:
        yield attend_with("blocked", q, k, v, uncached, **options)
    yield attend(q, k, v, uncached, "auto", **options)
    if "flex" in fixture.kernels:  # forward only: flex has no gradients on a CPU
        q, k, v = (x.detach() for x in (q, k, v))
        options = {name: x.detach() for name, x in options.items()}
        yield attend_with("flex", q, k, v, uncached, **options)


@check("logits", "logits equal those of the model written as loops", 1e-10)
def check_logits(fixture: Fixture) -> Findings:
    tokens = fixture.text(fixture.length)
    expected = fixture.expected_logits(tokens)
    for method in ("auto", *fixture.kernels, "cache"):
        yield from row_differences(fixture.outputs(method, tokens)[-1], expected)


@check("gradients", "gradients of all weights equal those of the loops", 1e-9)
@torch.enable_grad()
def check_gradients(fixture: Fixture) -> Findings:
    tokens = fixture.text(fixture.length)
    weights = fixture.noise(fixture.length, fixture.config.vocab_size)
    parameters = list(fixture.model.parameters())
    expected = weighted_gradients(fixture.expected_logits(tokens), weights, parameters)
    for tested in (fixture.model, fixture.variant(attention="dense")):
        actual = weighted_gradients(tested(tokens)[0], weights, list(tested.parameters()))
        yield from map(max_difference, actual, expected)


@check("precision", "errors of fp32 and bf16, in units of their epsilon", 32.0)
def check_precision(fixture: Fixture) -> Findings:
    tokens = fixture.text(fixture.length)
    for dtype in (torch.float32, torch.bfloat16):
        for kernel in fixture.kernels:
            tested, exact = rounded(fixture.variant(attention=kernel), dtype)
            yield rounding_error(tested(tokens), exact(tokens))
        # Sinks are the first positions, so a text that starts at a later position has none.
        tested, exact = rounded(fixture.variant(sink_token=False, attention_sinks=0), dtype)
        for start in (0, 100_000):
            cache = fixture.cache(model=tested, dtype=dtype)
            cache.first_position += start
            actual = cached_logits(tested, cache, tokens, fixture.widest + 1)
            yield rounding_error(actual, exact(tokens))
