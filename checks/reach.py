"""What windows, sinks and documents let a token see, and from how far."""

import copy

import torch

from checks import oracle
from checks.proof import Found, proof
from checks.subject import Subject, bits, each, fed, gap, influence, must, slopes


@proof("a changed token changes no bit outside its reach")
def perturbation(on: Subject) -> Found:
    tokens = on.text(on.stretch)
    reached = oracle.sources(on.config, on.stretch)
    for way in (*on.kernels, "cache"):
        before = on.run(way, tokens)
        for at in sorted({0, 1, on.sinks, on.stretch // 2, on.stretch - 1}):
            other = tokens.clone()
            other[0, at] = (other[0, at] + 1) % on.config.vocab_size
            after = on.run(way, other)
            for a, b, sources in zip(before, after, [*reached, reached[-1]], strict=True):
                changed = (a != b).any(-1)
                yield must(changed[at] and not (changed & ~sources[:, at]).any())


@proof("gradients come from exactly the tokens promised")
def reach(on: Subject) -> Found:
    tokens, front = on.text(on.stretch), int(on.config.sink_token)
    promised = oracle.sources(on.config, on.stretch)
    for query in sorted({0, on.width, on.stretch // 2, on.stretch - 1}):
        alone, through = influence(on.model, tokens, query)
        for depth, (window, sinks) in enumerate(on.layers):
            seen = [j - front for j in oracle.keys_of(query + front, window, sinks) if j >= front]
            yield must(alone[depth].nonzero().flatten().tolist() == seen)
            yield must(torch.equal(through[depth] > 0, promised[depth][query]))
    hidden = sum(not sources[-1].all() for sources in promised)
    if hidden < len(promised):
        yield f"from layer {hidden} on, all of the {on.stretch:,} tokens of the text are in reach"


@proof("a layer has its own window; W >= T is full attention", 1e-10)
def knob(on: Subject) -> Found:
    tokens = on.text(on.past)
    for kernel in ("auto", *on.kernels):
        same = {"attention": kernel, "rope_theta_local": None}
        full = on.twin(sliding_window=None, **same)(tokens)
        for window in (on.past + 1, 10 * on.past):  # + 1: a sink token takes a place
            yield bits(on.twin(sliding_window=window, **same)(tokens), full)
    ours = on.model(tokens)[0]
    turned = copy.deepcopy(on.model)
    for layer in range(len(on.windows))[:8]:
        windows = list(on.windows)
        windows[layer] = 2 if windows[layer] == 1 else max((windows[layer] or on.width) // 2, 1)
        turned.set_windows(windows)
        changed = turned(tokens)[0]
        yield must(gap(changed, ours) > 0)
        yield bits(on.twin(sliding_window=windows)(tokens)[0], changed)
        yield from each(changed, on.expected(tokens, windows))
    turned.set_windows(on.config.sliding_window)
    yield bits(turned(tokens)[0], ours)


@proof("a text gives the same logits wherever it begins", 1e-6)
def rope(on: Subject) -> Found:
    model = on.twin(sink_token=False, attention_sinks=0)  # which stand at the beginning only
    tokens = on.text(on.past)
    expected = model(tokens)[0]
    for begin in (1_000, 1_000_000, 10_000_000):
        cache = on.cache(model=model)
        cache.first_position += begin
        yield from each(fed(model, cache, tokens, on.width + 1)[0], expected)


@proof("sinks stay for ever and never get further away", 1e-9)
def sinks(on: Subject) -> Found:
    if not on.sinks and not on.config.sink_logits:
        yield "this model has none"
    if on.sinks:
        yield from _kept_sinks(on)
    if on.config.sink_logits:
        yield from _sink_logits(on)


def _kept_sinks(on: Subject) -> Found:
    """A text that goes on after a gap of any length sees its sinks, and from where it did."""
    # Windows in all layers: through a full one, what is further away is seen from further away.
    model = on.twin(sliding_window=[window or on.width for window in on.windows])
    first, rest = on.text(on.config.attention_sinks + 1), on.text(on.past)
    outcomes = []
    for gone in (on.width, 1_000, 1_000_000):
        cache = on.cache(model=model)
        fed(model, cache, first, 1)
        held = [ring.k[:, :, : on.sinks].clone() for ring in cache.layers]
        cache.seen += gone
        outcomes.append(fed(model, cache, rest, on.width + 1)[0])
        for ring, keys in zip(cache.layers, held, strict=True):
            yield must(set(range(on.sinks)) <= set(ring.positions[0].tolist()))
            yield bits(ring.k[:, :, : on.sinks], keys)
    for outcome in outcomes[1:]:
        yield from each(outcome, outcomes[0])
    blind = on.twin(sliding_window=model.config.sliding_window, sink_token=False, attention_sinks=0)
    yield must(gap(blind(rest)[0], outcomes[0]) > 0)


def _sink_logits(on: Subject) -> Found:
    """A very large logit takes all attention, a very small one takes none."""
    tokens, greedy, mute = on.text(on.past), copy.deepcopy(on.model), copy.deepcopy(on.model)
    for name, weight in greedy.named_parameters():
        if name.endswith("sink_logits"):
            weight.fill_(1e4)
    for name, weight in mute.named_parameters():
        if name.endswith("wo.weight"):
            weight.zero_()
    yield from each(greedy(tokens)[0], mute(tokens)[0])
    for name, weight in greedy.named_parameters():
        if name.endswith("sink_logits"):
            weight.fill_(-1e4)
    yield from each(greedy(tokens)[0], on.twin(sink_logits=False)(tokens)[0])


@proof("packed documents equal the same apart, gradients too", 1e-9)
@torch.enable_grad()
def documents(on: Subject) -> Found:
    long = on.width + on.sinks + 2
    texts = [on.text(length) for length in (long, 1, on.width - 1, 2, long + 1) if length]
    alone = [on.model(text)[0] for text in texts]
    orders = [range(len(texts)), range(len(texts))[::-1]]  # two rows, cut at other places
    tokens = torch.cat([torch.cat([texts[n] for n in order], dim=1) for order in orders])
    ids = torch.tensor([[n % 3 for n in order for _ in alone[n]] for order in orders])
    weigh = on.noise(*tokens[0].shape, on.config.vocab_size)
    wanted = slopes(torch.cat(alone), weigh, list(on.model.parameters()))
    for kernel in on.kernels:
        twin = on.twin(attention=kernel)
        with torch.set_grad_enabled(kernel != "flex"):  # it has no gradients on a CPU
            packed = twin(tokens, documents=ids)
        for row, order in zip(packed, orders, strict=True):
            yield from each(row, torch.cat([alone[n] for n in order]))
        if packed.requires_grad:
            yield from map(gap, slopes(packed[0], weigh, list(twin.parameters())), wanted)
