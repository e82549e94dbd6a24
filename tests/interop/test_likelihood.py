"""Log-likelihoods through the cache: those of the oracle, of every token, beyond the window."""

from dataclasses import dataclass
from typing import Any

import pytest
import reference
import tiny
import torch

from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import train_tokenizer
from interop.likelihood import LikelihoodReader, split_tokens
from interop.matrix import randomized
from model.config import ModelConfig
from model.transformer import Transformer

W, VOCAB = 4, 97
STACKS: dict[str, dict[str, Any]] = {
    "window": {"sliding_window": W},
    "mixed": {"sliding_window": (W, None)},
    "full": {"sliding_window": None},
    "first-tokens": {"sliding_window": W, "attention_sinks": 2},
    "sink-token": {"sliding_window": W, "sink_token": True},
    "sink-logits": {"sliding_window": W, "sink_logits": True},
}


@dataclass(frozen=True)
class Model:
    """A model of tokens; what reads it asks for no tokenizer."""

    model: Transformer
    tokenizer: Any = None


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    """A vocabulary with pieces such as " the"."""
    return open_tokenizer(train_tokenizer([tiny.english(20_000)], type="bpe", vocab_size=400))


def small(**settings: Any) -> Transformer:
    shape: dict[str, Any] = {"vocab_size": VOCAB, "dim": 16, "n_layers": 2, "n_heads": 2}
    return randomized(Transformer(ModelConfig(**shape, n_kv_heads=1, **settings)))


def oracle(model: Transformer, tokens: list[int]) -> torch.Tensor:
    """Return the log-probabilities (T, V) after each token, in float64 and without a cache."""
    shape = model.config
    logits = reference.logits(
        dict(model.state_dict()),
        tokens,
        windows=list(shape.windows),
        ropes=[reference.Rope(shape.rope_theta)] * shape.n_layers,
        sinks=shape.attention_sinks + int(shape.sink_token),
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,  # type: ignore[arg-type]
        norm_eps=shape.norm_eps,
    )
    return logits.log_softmax(dim=-1)


def drawn(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (length,), generator=generator).tolist()


@pytest.mark.parametrize("name", STACKS)
def test_continuations_have_the_probabilities_of_the_oracle(name: str) -> None:
    """A continuation could be scored one token off, or see what the one before it left in the
    cache. The context is 5 W long; the second continuation is the greedy one."""
    model = small(**STACKS[name])
    context = drawn(5 * W, seed=1)
    greedy: list[int] = []
    for _ in range(4):
        greedy.append(int(oracle(model, context + greedy)[-1].argmax()))
    continuations = [drawn(5, 2), greedy, [*greedy[:-1], (greedy[-1] + 1) % VOCAB], [5], []]
    reader = LikelihoodReader(Model(model), len(context) + 5, 5)
    for _ in range(2):  # the second time the cache has been used
        found = list(reader.score(context, continuations))
        for (nats, is_greedy), continuation in zip(found, continuations, strict=True):
            after = oracle(model, context + continuation)[len(context) - 1 : -1]
            expected = sum(float(after[n, token]) for n, token in enumerate(continuation))
            assert nats == pytest.approx(expected, abs=1e-3)
            assert is_greedy == (after.argmax(dim=1).tolist() == continuation)
        assert [is_greedy for _, is_greedy in found] == [False, True, False, False, True]


@pytest.mark.parametrize("name", STACKS)
def test_a_long_text_is_scored_as_one_forward_pass_scores_it(name: str) -> None:
    """Cut into pieces, a text would lose the tokens before each piece, or predict one twice. 700
    tokens are 175 W and three chunks."""
    model = small(**STACKS[name])
    tokens = drawn(700, seed=3)
    ((nats, _),) = LikelihoodReader(Model(model), 700).score(tokens[:1], [tokens[1:]])
    with torch.no_grad():
        logits = model(torch.tensor([tokens]))[0, :-1].double()
    expected = -torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum")
    assert nats == pytest.approx(expected.item(), rel=1e-5)


def test_memory_does_not_grow_with_the_text() -> None:
    """A cache of so many tokens would not fit into memory."""
    model = small(sliding_window=W)
    reader = LikelihoodReader(Model(model), longest=10**12)
    ((nats, _),) = reader.score([1], [drawn(50, 4)])
    assert nats < 0


@pytest.mark.parametrize(
    ("context", "continuation", "scored"),
    [
        ("The old king", " walks under", " walks under"),
        ("The old king ", "walks", " walks"),  # " walks" is one token
        ("The old king", "dom", "dom"),
        ("the ri", "ver", " river"),  # one token, of which the context has a part
        ("", "The old king", "The old king"),
        ("The old king", "", ""),
        ("caf", "\u00e9 \U0001f600", "\u00e9 \U0001f600"),  # several bytes each
        ("the\n\n", "old", "old"),
    ],
)
def test_the_border_between_context_and_continuation(
    bpe: Tokenizer, context: str, continuation: str, scored: str
) -> None:
    """A character of the continuation could be left unscored, or the context be scored as well."""
    tokens, n_context = split_tokens(bpe, context, continuation)
    assert tokens == bpe.encode_prompt(context + continuation)
    assert tokens[0] == bpe.bos_id and n_context >= 1
    assert bpe.decode(tokens[n_context:]) == scored
