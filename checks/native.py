"""Checks of the native kernels, in the dtypes in which they run: bf16 attention, fp32 decoding.

Where this machine or this model cannot use a kernel, its check only says why.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from checks import oracle
from checks.attention import attention_inputs
from checks.check import Findings, check
from checks.differences import require, rounding_error
from checks.fixture import MAX_LENGTH, Fixture, rounded
from checks.passes import influence, weighted_gradients
from model import native
from model.decoding import Decoder
from model.kernels import Visibility, attend_with


def _refusal(fixture: Fixture) -> str | None:
    """Return why native attention cannot run, or None."""
    if fixture.config.head_dim % native.LANES:  # type: ignore[operator]
        return (
            f"native attention needs heads of a multiple of {native.LANES} numbers, and these "
            f"have {fixture.config.head_dim}: PyTorch computes them"
        )
    return native.training_refusal()


def _layers(fixture: Fixture) -> Iterator[tuple[Visibility, dict[str, Tensor]]]:
    """Yield the visibility and the inputs of attention in bf16, for each kind of layer."""
    for window, sinks in fixture.layer_kinds:
        _, drawn = attention_inputs(fixture, fixture.length, window, sinks)
        inputs = {name: x.detach().bfloat16().requires_grad_() for name, x in drawn.items()}
        yield Visibility(window, sinks), inputs


@check("mask", "native attention: exactly 0 from all keys not seen")
@torch.enable_grad()
def check_mask(fixture: Fixture) -> Findings:
    if reason := _refusal(fixture):
        yield reason
        return
    last = fixture.length - 1
    for seen, inputs in _layers(fixture):
        out = attend_with("native", visibility=seen, **inputs)
        for query in sorted({0, fixture.widest - 1, fixture.widest, last // 2, last}):
            weights = torch.zeros_like(out)
            weights[:, :, query] = fixture.noise(*out[:, :, query].shape)
            by_key, by_value = weighted_gradients(out, weights, [inputs["k"], inputs["v"]])
            keys = oracle.visible_keys(query, seen.window, seen.sinks)
            yield require(by_value.abs().amax((0, 1, 3)).nonzero().flatten().tolist() == keys)
            others = [key for key in range(fixture.length) if key not in keys]
            yield require(not by_key[:, :, others].any())
    yield from _reach(fixture)


def _reach(fixture: Fixture) -> Findings:
    """Gradients through the whole model, as in training: exactly 0 beyond the reach."""
    model = copy.deepcopy(fixture.variant(attention="auto")).float()
    tokens = fixture.text(fixture.reach_length)
    reached = oracle.dependencies(fixture.config, fixture.reach_length)
    for query in sorted({fixture.widest, fixture.reach_length // 2, fixture.reach_length - 1}):
        with native.enabled(), torch.autocast("cpu", torch.bfloat16):
            _, through = influence(model, tokens, query)
        for depth, depends in enumerate(reached):
            yield require(through[depth, query] > 0 and not through[depth, ~depends[query]].any())


# A result passes at most four roundings to bf16, of half an epsilon each: of the weights or of the
# gradients of the scores, of the output, of sinks merged into it, and of the result itself.
@check("rounding", "native attention and gradients, in bf16 epsilons", 2.0)
@torch.enable_grad()
def check_rounding(fixture: Fixture) -> Findings:
    if reason := _refusal(fixture):
        yield reason
        return
    for seen, inputs in _layers(fixture):
        exact: dict[str, Any] = {
            name: x.detach().double().requires_grad_() for name, x in inputs.items()
        }
        actual = attend_with("native", visibility=seen, **inputs)
        expected = oracle.attention(**exact, window=seen.window, sinks=seen.sinks)
        yield rounding_error(actual, expected)
        # The norm of all gradients together: with W = 1, those of queries and keys are 0.
        upstream = fixture.noise(*expected.shape).bfloat16()
        gradients = weighted_gradients(actual, upstream, list(inputs.values()))
        exact_gradients = weighted_gradients(expected, upstream, list(exact.values()))
        yield rounding_error(_joined(gradients), _joined(exact_gradients))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


# Sums of a few hundred products in fp32, through all layers: as for PyTorch in `precision`.
@check("step", "native decoding equals uncached, in fp32 epsilons", 32.0)
def check_step(fixture: Fixture) -> Findings:
    model, exact = rounded(fixture.model, torch.float32)

    def decoder_with(spare: int) -> Decoder:
        return Decoder(model, fixture.cache(rows=3, dtype=torch.float32, spare=spare))

    if (reason := decoder_with(0).reason).startswith("PyTorch"):
        yield reason
        return
    longest = 3 * fixture.widest + fixture.sinks
    lengths, steps = [1, fixture.widest, longest], min(3 * fixture.widest + 2, MAX_LENGTH - longest)
    texts = [fixture.text(length + steps)[0] for length in lengths]
    prompts = [text[:length].tolist() for text, length in zip(texts, lengths, strict=True)]
    expected = [exact(text[None])[0, -steps - 1 :] for text in texts]
    for spare in (0, 2):  # a ring with spare slots also holds keys that are not seen any more
        decoder = decoder_with(spare)
        logits = [decoder.prefill(prompts)]
        for column in torch.stack([text[-steps:] for text in texts]).T:
            logits.append(decoder.step(column))
        for ours, theirs in zip(torch.stack(logits, dim=1), expected, strict=True):
            yield from map(rounding_error, ours, theirs)
