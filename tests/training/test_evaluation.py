"""The loss of a split: every token once, whatever the batches."""

import math

import numpy as np
import pytest
import torch

from data.batches import evaluation_sequences
from model import ModelConfig, Transformer
from model.loss import next_token_loss
from training.evaluation import Score, evaluate

CPU = torch.device("cpu")
TOKENS = np.random.default_rng(0).integers(0, 50, 333).astype(np.uint16)


def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        ModelConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, n_kv_heads=1, sliding_window=4)
    ).double()


@pytest.mark.parametrize("seq_len", [1, 7, 83, 332, 1000])
def test_a_model_that_knows_nothing_scores_log_v(seq_len: int) -> None:
    """Equal logits give each of V tokens the probability 1/V: log V nats or log2 V bits each."""
    uniform_model = model()
    torch.nn.init.zeros_(uniform_model.output.weight)
    score = evaluate(
        lambda x, y: next_token_loss(uniform_model, x, y),
        evaluation_sequences(TOKENS, seq_len, batch_size=3), 333, CPU,
    )  # fmt: skip
    assert score.n_tokens == 332  # all but the first are predicted
    assert score.loss == pytest.approx(math.log(50), rel=1e-12)
    assert score.perplexity == pytest.approx(50)
    assert score.bpb == pytest.approx(math.log2(50) * 332 / 333)


def test_independent_of_the_batch_size_and_equal_to_a_sum_by_hand() -> None:
    """A mean of means would give a short last sequence too much weight."""
    trained = model()
    torch.nn.init.normal_(trained.output.weight)
    scores = [
        evaluate(lambda x, y: next_token_loss(trained, x, y),
                 evaluation_sequences(TOKENS, 25, batch_size=size), 333, CPU)
        for size in (1, 2, 13, 100)
    ]  # fmt: skip
    tokens, nats = torch.from_numpy(TOKENS.astype(np.int64)), 0.0
    with torch.no_grad():
        for start in range(0, 332, 25):
            piece = tokens[start : start + 26]
            chances = trained(piece[None, :-1])[0].softmax(-1)
            nats -= sum(math.log(chances[i, t]) for i, t in enumerate(piece[1:].tolist()))
    for score in scores:
        assert score.nats == pytest.approx(nats, rel=1e-9) and score.n_tokens == 332


def test_prompts_are_read_and_not_counted() -> None:
    """A batch without a token that counts, or the mean over all tokens, would spoil the sum."""
    trained = model()
    torch.nn.init.normal_(trained.output.weight)
    marked = TOKENS.astype(np.int32)
    marked[[3, 4, 5, 40, 332]] = ~marked[[3, 4, 5, 40, 332]]
    marked[50:100] = ~marked[50:100]  # more than two sequences
    scores = [
        evaluate(lambda x, y: next_token_loss(trained, x, y),
                 evaluation_sequences(marked, 25, batch_size=size), 333, CPU)
        for size in (1, 2, 100)
    ]  # fmt: skip
    tokens, nats = torch.from_numpy(TOKENS.astype(np.int64)), 0.0
    with torch.no_grad():
        for start in range(0, 332, 25):
            piece = tokens[start : start + 26]
            chances = trained(piece[None, :-1])[0].softmax(-1)
            for i, target in enumerate(piece[1:].tolist()):
                nats -= math.log(chances[i, target]) if marked[start + i + 1] >= 0 else 0.0
    for score in scores:
        assert score.nats == pytest.approx(nats, rel=1e-9) and score.n_tokens == 332 - 55
        assert score.bpb == pytest.approx(nats / math.log(2) / 333)


def test_perplexity_overflows_to_infinity() -> None:
    """A model that is very wrong must not end the evaluation with OverflowError."""
    assert Score(1e6, 10, 10).perplexity == math.inf
