"""checks/oracle.py against tests/reference.py: two oracles, written independently, must agree."""

import pytest
import reference
import torch
from reference import Rope

from checks import oracle
from checks.models import random_model
from model.config import ModelConfig

WINDOWS = [(1, 0), (3, 0), (3, 2), (5, 20), (40, 1), (None, 0), (None, 3)]


@pytest.mark.parametrize("window, sinks", WINDOWS)
def test_visible_keys_obey_the_rule(window: int | None, sinks: int) -> None:
    """The oracle could have another rule, and every check compares with it."""
    for i in range(12):
        expected = [j for j in range(12) if reference.visible(i, j, window, sinks)]
        assert oracle.visible_keys(i, window, sinks) == expected


@pytest.mark.parametrize("window, sinks", WINDOWS)
@pytest.mark.parametrize("rows", [None, [0, 1, 2, 3, 9, 16]])
def test_attention(window: int | None, sinks: int, rows: list[int] | None) -> None:
    """The scale, the groups of heads or the chosen rows could differ."""
    generator = torch.Generator().manual_seed(0)
    q, q_sinks = torch.randn(2, 2, 4, 17, 6, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, 17, 6, generator=generator, dtype=torch.float64)
    logits = torch.randn(4, generator=generator, dtype=torch.float64)
    expected = reference.attention(q, k, v, window, sinks)
    chosen = list(range(17)) if rows is None else rows
    actual = oracle.attention(q, k, v, window, sinks, rows=rows)
    torch.testing.assert_close(actual, expected[:, :, chosen])
    options = {"q_sinks": q_sinks, "sink_logits": logits}
    expected = reference.attention(q, k, v, window, sinks, **options)
    actual = oracle.attention(q, k, v, window, sinks, rows=rows, **options)
    torch.testing.assert_close(actual, expected[:, :, chosen])


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize("pattern", [[3], [2, None], [1, 4, 2]])
def test_dependencies(pattern: list[int | None], sinks: int) -> None:
    """The reach could be one token too long or too short, or that of another layer."""
    config = ModelConfig(
        vocab_size=9, dim=8, n_layers=3, n_heads=2, n_kv_heads=1,
        sliding_window=tuple(pattern), attention_sinks=sinks,
    )  # fmt: skip
    windows = oracle.layer_windows(config)
    assert windows == [pattern[layer % len(pattern)] for layer in range(3)]
    for depth, matrix in enumerate(oracle.dependencies(config, 12)):
        expected = reference.depends(windows[: depth + 1], sinks, 12)
        assert [set(row.nonzero().flatten().tolist()) for row in matrix] == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sliding_window": (3, None), "rope_theta_local": 100.0},
        {"attention_sinks": 2, "sink_token": True, "sink_logits": True},
        {"tie_embeddings": True, "n_kv_heads": 4},
        {"rope_scaling": "linear", "rope_factor": 4.0},
        {"rope_scaling": "ntk", "rope_factor": 4.0},
        {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 64},
    ],
    ids=str,
)
def test_logits(settings: dict) -> None:
    """The oracle could differ from Mistral in one operation, and all checks would require that."""
    sizes = {"vocab_size": 31, "dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
             "hidden_dim": 24, "head_dim": 8, "sliding_window": 3}  # fmt: skip
    config = ModelConfig(**(sizes | settings))
    weights = {name: w.detach().double() for name, w in random_model(config, 0).named_parameters()}
    tokens = torch.randint(31, (13,), generator=torch.Generator().manual_seed(1)).tolist()
    windows = oracle.layer_windows(config)
    assert config.head_dim is not None
    expected = reference.logits(
        weights | {"output.weight": weights.get("output.weight", weights["tok_embeddings.weight"])},
        tokens, windows=windows, ropes=[_rope(config, window) for window in windows],
        sinks=config.attention_sinks + config.sink_token, n_heads=4, n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim, norm_eps=config.norm_eps,
    )  # fmt: skip
    torch.testing.assert_close(oracle.logits(weights, config, tokens, windows), expected)


def _rope(config: ModelConfig, window: int | None) -> Rope:
    if window is not None and config.rope_theta_local is not None:
        return Rope(config.rope_theta_local)
    return Rope(
        config.rope_theta, config.rope_scaling, config.rope_factor, config.rope_original_len
    )
