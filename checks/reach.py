"""Checks of what a token depends on: windows, reach, positions, sinks, documents."""

import copy

import torch

from checks import oracle
from checks.check import Findings, check
from checks.differences import exact_difference, max_difference, require, row_differences
from checks.fixture import Fixture
from checks.passes import cached_logits, influence, weighted_gradients


@check("perturbation", "a changed token changes no bit outside its reach")
def check_perturbation(fixture: Fixture) -> Findings:
    length = fixture.reach_length
    tokens = fixture.text(length)
    reached = oracle.dependencies(fixture.config, length)
    for method in (*fixture.kernels, "cache"):
        before = fixture.outputs(method, tokens)
        for position in sorted({0, 1, fixture.sinks, length // 2, length - 1}):
            other = tokens.clone()
            other[0, position] = (other[0, position] + 1) % fixture.config.vocab_size
            after = fixture.outputs(method, other)
            for a, b, depends in zip(before, after, [*reached, reached[-1]], strict=True):
                changed = (a != b).any(-1)
                outside = changed & ~depends[:, position]
                yield require(changed[position] and not outside.any())


@check("reach", "gradients come from exactly the tokens in reach")
def check_reach(fixture: Fixture) -> Findings:
    length, front = fixture.reach_length, int(fixture.config.sink_token)
    tokens = fixture.text(length)
    reached = oracle.dependencies(fixture.config, length)
    for query in sorted({0, fixture.widest, length // 2, length - 1}):
        alone, through = influence(fixture.model, tokens, query)
        for depth, (window, sinks) in enumerate(fixture.layers):
            keys = oracle.visible_keys(query + front, window, sinks)
            columns = [key - front for key in keys if key >= front]
            yield require(alone[depth].nonzero().flatten().tolist() == columns)
            yield require(torch.equal(through[depth] > 0, reached[depth][query]))
    limited = sum(not depends[-1].all() for depends in reached)
    if limited < len(reached):
        yield f"from layer {limited} on, all {length:,} tokens of the text are in reach"


@check("windows", "each layer obeys its window; W >= T is full attention", 1e-10)
def check_windows(fixture: Fixture) -> Findings:
    tokens = fixture.text(fixture.length)
    for kernel in ("auto", *fixture.kernels):
        settings = {"attention": kernel, "rope_theta_local": None}
        full = fixture.variant(sliding_window=None, **settings)(tokens)
        for window in (fixture.length + 1, 10 * fixture.length):  # + 1 for a sink token
            wide = fixture.variant(sliding_window=window, **settings)(tokens)
            yield exact_difference(wide, full)
    original = fixture.model(tokens)[0]
    changed = copy.deepcopy(fixture.model)
    for layer in range(len(fixture.windows))[:8]:
        windows = list(fixture.windows)
        window = windows[layer] or fixture.widest
        windows[layer] = 2 if windows[layer] == 1 else max(window // 2, 1)
        changed.set_windows(windows)
        logits = changed(tokens)[0]
        yield require(max_difference(logits, original) > 0)
        yield exact_difference(fixture.variant(sliding_window=windows)(tokens)[0], logits)
        yield from row_differences(logits, fixture.expected_logits(tokens, windows))
    changed.set_windows(fixture.config.sliding_window)
    yield exact_difference(changed(tokens)[0], original)


@check("rope", "logits do not depend on where the text begins", 1e-6)
def check_rope(fixture: Fixture) -> Findings:
    # Without sinks: their positions are the first ones of a text.
    tested = fixture.variant(sink_token=False, attention_sinks=0)
    tokens = fixture.text(fixture.length)
    expected = tested(tokens)[0]
    for start in (1_000, 1_000_000, 10_000_000):
        cache = fixture.cache(model=tested)
        cache.first_position += start
        yield from row_differences(
            cached_logits(tested, cache, tokens, fixture.widest + 1)[0], expected
        )


@check("sinks", "sinks stay in the cache, at a bounded distance", 1e-9)
def check_sinks(fixture: Fixture) -> Findings:
    if not fixture.sinks and not fixture.config.sink_logits:
        yield "the model has no sinks"
    if fixture.sinks:
        yield from _cached_sinks(fixture)
    if fixture.config.sink_logits:
        yield from _sink_logits(fixture)


def _cached_sinks(fixture: Fixture) -> Findings:
    """After skipped positions, however many, a text sees its sinks from the same distance."""
    # All layers get a window: a full layer sees the distance grow.
    windows = [window or fixture.widest for window in fixture.windows]
    tested = fixture.variant(sliding_window=windows)
    first = fixture.text(fixture.config.attention_sinks + 1)
    rest = fixture.text(fixture.length)
    outcomes = []
    for skipped in (fixture.widest, 1_000, 1_000_000):
        cache = fixture.cache(model=tested)
        cached_logits(tested, cache, first, 1)
        sink_keys = [ring.k[:, :, : fixture.sinks].clone() for ring in cache.layers]
        cache.seen += skipped
        outcomes.append(cached_logits(tested, cache, rest, fixture.widest + 1)[0])
        for ring, keys in zip(cache.layers, sink_keys, strict=True):
            yield require(set(range(fixture.sinks)) <= set(ring.positions[0].tolist()))
            yield exact_difference(ring.k[:, :, : fixture.sinks], keys)
    for outcome in outcomes[1:]:
        yield from row_differences(outcome, outcomes[0])
    without = fixture.variant(sliding_window=windows, sink_token=False, attention_sinks=0)
    yield require(max_difference(without(rest)[0], outcomes[0]) > 0)


def _sink_logits(fixture: Fixture) -> Findings:
    """A very large sink logit takes all attention weight, a very small one takes none."""
    tokens = fixture.text(fixture.length)
    tested, without_attention = copy.deepcopy(fixture.model), copy.deepcopy(fixture.model)
    for name, weight in without_attention.named_parameters():
        if name.endswith("wo.weight"):
            weight.zero_()
    without_logits = fixture.variant(sink_logits=False)
    for logit, expected in ((1e4, without_attention), (-1e4, without_logits)):
        for name, weight in tested.named_parameters():
            if name.endswith("sink_logits"):
                weight.fill_(logit)
        yield from row_differences(tested(tokens)[0], expected(tokens)[0])


@check("documents", "packed documents equal separate ones, gradients too", 1e-9)
@torch.enable_grad()
def check_documents(fixture: Fixture) -> Findings:
    longest = fixture.widest + fixture.sinks + 2
    lengths = (longest, 1, fixture.widest - 1, 2, longest + 1)
    texts = [fixture.text(length) for length in lengths if length]
    separate = [fixture.model(text)[0] for text in texts]
    orders = [range(len(texts)), range(len(texts))[::-1]]  # two rows with different borders
    tokens = torch.cat([torch.cat([texts[n] for n in order], dim=1) for order in orders])
    ids = torch.tensor([[n % 3 for n in order for _ in separate[n]] for order in orders])
    weights = fixture.noise(*tokens[0].shape, fixture.config.vocab_size)
    parameters = list(fixture.model.parameters())
    expected = weighted_gradients(torch.cat(separate), weights, parameters)
    for kernel in fixture.kernels:
        tested = fixture.variant(attention=kernel)
        with torch.set_grad_enabled(kernel != "flex"):  # flex has no gradients on a CPU
            packed = tested(tokens, documents=ids)
        for row, order in zip(packed, orders, strict=True):
            yield from row_differences(row, torch.cat([separate[n] for n in order]))
        if packed.requires_grad:
            actual = weighted_gradients(packed[0], weights, list(tested.parameters()))
            yield from map(max_difference, actual, expected)
