"""What int8 weights cost on a text, against one pass over the whole text."""

import math

import pytest
import torch
from torch.nn import functional as F

from inference import rounding
from inference.rounding import rounding_cost
from inference.trained import TrainedModel
from model.quantization import round_weights


@pytest.mark.parametrize("prompt", ["The old king ", "Because the r", ""])
def test_the_loss_of_the_continuations(
    trained: TrainedModel, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of the prompt could be counted, or some at the border of two chunks left out."""
    monkeypatch.setattr(rounding, "PREFILL_CHUNK", 7)
    texts = ["walks over the stone and sings near the old house.", "", "and"]
    cost = rounding_cost(trained, prompt, texts)
    before = trained.tokenizer.encode_prompt(prompt)
    for model, actual in (
        (trained.model, cost.fp32_nats),
        (round_weights(trained.model), cost.int8_nats),
    ):
        losses = []
        for text in texts:
            ids = trained.tokenizer.encode_prompt(prompt + text)
            if len(ids) < 2:  # nothing but the beginning of a document
                continue
            same = [a == b for a, b in zip(before, ids, strict=False)] + [False]
            with torch.no_grad():
                logits = model(torch.tensor([ids[:-1]]))[0].double()
            each = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            losses += each[same.index(False) - 1 :].tolist()
        assert cost.n_tokens == len(losses)
        assert actual == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert cost.fp32_nats != cost.int8_nats
    assert 3.5 < cost.fp32_bytes / cost.int8_bytes < 4  # the rest are scales


def test_no_text(trained: TrainedModel) -> None:
    """A row may end at once; its mean would divide by zero."""
    cost = rounding_cost(trained, "The old king", [""])
    assert cost.n_tokens == 0 and math.isnan(cost.int8_nats)


def test_a_rounded_model_keeps_its_settings(trained: TrainedModel) -> None:
    """Windows of the table of `scripts.evaluate` could be those of the training."""
    both = trained.with_settings(sliding_window=2).rounded()
    assert both.model.config.windows == (2, 2, 2) and not both.model.training
    expected = round_weights(trained.model).output.weight
    assert torch.equal(both.model.output.weight, expected)
    assert not any(weight.requires_grad for weight in both.model.parameters())
