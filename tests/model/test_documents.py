"""Packed documents are read as if each were alone: positions, windows, sinks, gradients."""

from typing import Any

import pytest
import torch
from small import KERNELS, build, config, text, using
from torch import Tensor

from model.cache import RollingKVCache
from model.transformer import Transformer

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"attention_sinks": 2, "sink_token": True, "sink_logits": True},
    "local": {"attention_sinks": 1, "rope_theta_local": 100.0},
}
SIZES = [5, 1, 9, 3, 2, 13, 1]  # for W = 3: below, at and above it; shorter than the sinks
STACKS = [1, 3, 40, None, (3, None), (1, 3, None)]


def numbered(sizes: list[int]) -> Tensor:
    """Return the documents (1, T) of these sizes, numbered 1, 2, ..."""
    return torch.tensor([[d for d, size in enumerate(sizes, start=1) for _ in range(size)]])


def separate_logits(model: Transformer, tokens: Tensor, sizes: list[int]) -> Tensor:
    """Return the logits (1, T, V) of documents, each read in a forward pass of its own."""
    return torch.cat([model(part) for part in tokens.split(sizes, dim=1)], dim=1)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("window", STACKS)
def test_packed_documents_equal_separate_ones(window: Any, features: str) -> None:
    """A document could see the one before it, continue its positions or lose its first keys: also
    in full layers, and in the gradient."""
    model, tokens = build(window, **FEATURES[features]), text(sum(SIZES))
    expected = separate_logits(model, tokens, SIZES)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    weights = list(model.parameters())
    gradients = torch.autograd.grad((expected * upstream).sum(), weights)
    for kernel in ("dense", "blocked", "blocked-2-4", "auto"):
        with using(kernel, model):
            packed = model(tokens, documents=numbered(SIZES))
        torch.testing.assert_close(packed, expected, rtol=0, atol=1e-10)
        back = torch.autograd.grad((packed * upstream).sum(), weights)
        for mine, other in zip(back, gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [16, 20, 64])
@torch.no_grad()
def test_documents_at_the_edges_of_real_blocks(window: int) -> None:
    """The documents of the tests above fit into two blocks. These end at the edges of blocks."""
    sizes = [16, 16, 15, 1, 17, 64, 1, 63, 65, 40]
    model = build(window, **FEATURES["all"])
    tokens = text(sum(sizes))
    packed = model(tokens, documents=numbered(sizes))
    torch.testing.assert_close(packed, separate_logits(model, tokens, sizes), rtol=0, atol=1e-10)


@pytest.mark.parametrize("features", FEATURES)
@torch.no_grad()
def test_each_row_has_documents_of_its_own(features: str) -> None:
    """The documents of the first row could be used in all rows."""
    model, tokens = build((3, None), **FEATURES[features]), text(12, rows=3)
    sizes = [[12], [1, 4, 7], [6, 6]]
    documents = torch.cat([numbered(row) for row in sizes])
    for kernel in KERNELS:
        with using(kernel, model):
            packed = model(tokens, documents=documents)
        for row in range(3):
            alone = separate_logits(model, tokens[row : row + 1], sizes[row])[0]
            torch.testing.assert_close(packed[row], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("features", FEATURES)
@torch.no_grad()
def test_one_document_is_a_plain_text(kernel: str, features: str) -> None:
    """Packing could change a row that is one document."""
    model, tokens = build((3, None), attention=kernel, **FEATURES[features]), text(14, rows=2)
    packed = model(tokens, documents=torch.full((2, 14), 8))
    torch.testing.assert_close(packed, model(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("features", FEATURES)
@torch.no_grad()
def test_only_changes_of_the_number_matter(kernel: str, features: str) -> None:
    """A number that appears again later is another document: it must not see the first."""
    model, tokens = build((3, None), attention=kernel, **FEATURES[features]), text(11)
    rising = torch.tensor([[1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]])
    again = torch.tensor([[7, 7, 7, 2, 2, 7, 7, 7, 2, 2, 2]])
    assert torch.equal(model(tokens, documents=rising), model(tokens, documents=again))


@torch.no_grad()
def test_the_sink_token_serves_every_document() -> None:
    """The token is in front of the row: only the first document could see it."""
    model, tokens = build(3, sink_token=True), text(12)
    documents = numbered([5, 4, 3])
    before = model(tokens, documents=documents)
    assert model.sink_token is not None
    model.sink_token.add_(1.0)
    assert ((model(tokens, documents=documents) - before).abs().amax(dim=-1) > 1e-6).all()


def test_a_cache_refuses_documents() -> None:
    """Documents would have no effect, without an error."""
    model = build(3)
    with pytest.raises(AssertionError, match="one document a row"):
        model(text(4), cache=RollingKVCache(config(3)), documents=numbered([2, 2]))
