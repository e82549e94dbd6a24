"""experiments/sinks.py: streamed perplexities, shares of attention, what the command refuses."""

import shutil
from pathlib import Path

import pytest
import reference
import tiny
import torch
from torch import Tensor
from torch.nn import functional as F

from data.text import open_text
from experiments import sinks
from experiments.groups import Group
from experiments.pages.page import page
from experiments.result import load
from experiments.streams import reading
from experiments.streams.measure import Plan, measure
from experiments.streams.results import SinksResult
from experiments.streams.shares import attention_shares
from inference.trained import open_trained
from model import ModelConfig, Transformer
from model.window import Window

SHORT = ["train.max_steps=2", "train.warmup_steps=1"]
SHAPE = {
    "vocab_size": 30, "dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 4,
    "hidden_dim": 24,
}  # fmt: skip


def made(**settings: object) -> Transformer:
    """A random model, with residual weights that are not zero as at the start of a training."""
    torch.manual_seed(1)
    model = Transformer(ModelConfig(**(SHAPE | settings)))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 or "sink" in name:
                weight.normal_(std=0.7)
    return model.requires_grad_(False).eval()


def nats_of(model: Transformer, texts: Tensor) -> Tensor:
    """The nats (B, T) of one pass without a cache."""
    logits = model(texts[:, :-1])
    return F.cross_entropy(logits.mT, texts[:, 1:], reduction="none")


# Where attention goes


@pytest.mark.parametrize("window", [None, 3], ids=["full", "window"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"attention_sinks": 2}, {"sink_token": True}, {"sink_logits": True}, {"n_kv_heads": 4},
     {"sink_token": True, "sink_logits": True, "attention_sinks": 1}],
    ids=str,
)  # fmt: skip
def test_shares_are_those_of_an_explicit_softmax(
    window: Window, settings: dict[str, object]
) -> None:
    """A head of another group, a query that is not rotated, a column that is off by one."""
    model = made(sliding_window=window, **settings)
    texts = torch.randint(30, (2, 9))
    inputs: list[Tensor] = []
    for block in model.layers:
        block.attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))  # type: ignore[operator, union-attr]
    found = attention_shares(model, texts, first_query=4)
    front = int(model.sink_token is not None)
    for layer, x in enumerate(inputs):
        for head in range(4):
            first, front_key, logit = oracle(model, layer, head, x.double(), front + 4, window)
            expected = first[front]
            assert found.first[layer, head].item() == pytest.approx(expected, abs=1e-6)
            if front:
                assert found.sink is not None
                assert found.sink[layer, head].item() == pytest.approx(front_key, abs=1e-6)
            elif model.config.sink_logits:
                assert found.sink is not None
                assert found.sink[layer, head].item() == pytest.approx(logit, abs=1e-6)
            else:
                assert found.sink is None


def oracle(
    model: Transformer, layer: int, head: int, x: Tensor, first_query: int, window: Window
) -> tuple[list[float], float, float]:
    """Mean shares of one head, one query at a time: of each key, of key 0, and of the logit."""
    attention = model.layers[layer].attention
    q_weight = attention.wq.weight.double()[4 * head : 4 * head + 4]  # type: ignore[union-attr]
    key_head = head // (4 // model.config.n_kv_heads)
    k_weight = attention.wk.weight.double()[4 * key_head : 4 * key_head + 4]  # type: ignore[union-attr]
    logits = attention.sink_logits
    logit = None if logits is None else logits[head].double()  # type: ignore[index]
    rows = []
    for text in x:
        unit = torch.eye(len(text), dtype=torch.float64)  # its values make the output the weights
        out = reference.streaming_head(
            text @ q_weight.T, text @ k_weight.T, unit, window, model.config.sinks,
            reference.Rope(model.config.rope_theta), logit,
        )  # fmt: skip
        rows.append(out[first_query:])
    mean = torch.stack(rows).mean((0, 1))
    return mean.tolist(), mean[0].item(), 1 - mean.sum().item()


def test_kinds_are_sums_over_equal_tokens() -> None:
    """Shares of another token, or of a neighbour of it, behind a sink token."""
    model = made(sliding_window=None, sink_token=True, sink_logits=True)
    texts = torch.tensor([[3, 5, 3, 3, 9, 5], [5, 5, 5, 9, 9, 3]])
    found = attention_shares(model, texts, first_query=2)
    inputs: list[Tensor] = []
    model.layers[0].attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))  # type: ignore[operator, union-attr]
    model(texts)
    expected = torch.zeros(30, dtype=torch.float64)
    for text, x in zip(texts, inputs[0].double(), strict=True):
        keys, _, _ = oracle(model, 0, 1, x[None], 3, None)
        for token, share in zip(text.tolist(), keys[1:], strict=True):
            expected[token] += share / 2
    torch.testing.assert_close(found.kinds[0, 1].double(), expected, atol=1e-6, rtol=0)


# Ways of reading


def test_a_stream_in_a_window_as_long_as_the_text_is_the_model_itself() -> None:
    """A cache that loses keys, chunks that are put together in another order."""
    texts = torch.randint(30, (3, 151))
    model = made(sliding_window=150, sink_token=True)
    expected = nats_of(made(sliding_window=None, sink_token=True), texts)
    torch.testing.assert_close(reading.stream(model, texts, ""), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reading.dense(model, texts), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [0, 3])
def test_a_stream_equals_one_pass_without_a_cache(count: int) -> None:
    """Sinks that are not kept, or kept in another order."""
    texts = torch.randint(30, (2, 151))
    model = made(sliding_window=5, attention_sinks=count)
    found = reading.stream(model, texts, "")
    torch.testing.assert_close(found, nats_of(model, texts), rtol=1e-4, atol=1e-4)


def test_a_dropped_sink_token_is_dropped_after_the_window() -> None:
    """A row about the loss of the sink token, of a model that still sees it, or never saw it."""
    texts = torch.randint(30, (2, 200))
    model = made(sliding_window=64, sink_token=True)
    kept = reading.stream(model, texts, "")
    dropped = reading.stream(model, texts, "", drop_token_at=64)
    assert torch.equal(kept[:, :64], dropped[:, :64])
    assert (kept - dropped)[:, 64:128].abs().mean() > 1e-3
    with torch.no_grad():
        assert model.sink_token is not None
        model.sink_token.neg_()  # keys of layer 2 know of it, if their queries in layer 1 saw it
    again = reading.stream(model, texts, "", drop_token_at=64)
    torch.testing.assert_close(again[:, 128:], dropped[:, 128:])


def test_recomputed_tokens_see_their_window_alone() -> None:
    """A window that is a token too long or too short, or nats of other tokens."""
    texts = torch.randint(30, (2, 41))
    model = made(sliding_window=None)
    found = reading.recomputed(model, texts, window=6, every=4)
    torch.testing.assert_close(found[:, :6], nats_of(model, texts[:, :7]))
    measured = [t for t in range(6, 40) if not found[0, t].isnan()]
    assert measured == list(range(6, 40, 4))
    for t in measured:
        alone = nats_of(model, texts[:, t - 5 : t + 2])[:, -1]
        torch.testing.assert_close(found[:, t], alone, rtol=1e-4, atol=1e-4)


def test_a_text_cut_as_in_training() -> None:
    """Nats of sequences that begin elsewhere."""
    texts = torch.randint(30, (2, 24))
    model = made(sliding_window=None)
    expected = [nats_of(model, texts[:, start : start + 11]) for start in (0, 10, 20)]
    torch.testing.assert_close(reading.as_trained(model, texts, 10), torch.cat(expected, dim=1))


def test_intervals_and_texts() -> None:
    """Columns that are shifted by a token, texts that overlap."""
    assert reading.interval_ends(32, 150, 16) == [16, 32, 64, 128, 150]
    assert reading.interval_ends(32, 128, 32) == [32, 64, 128]
    assert reading.interval_ends(32, 20, 64) == [20]
    nats = torch.tensor([[1.0, 3.0, torch.nan, 5.0, 7.0], [1.0, 3.0, 4.0, 5.0, torch.nan]])
    assert reading.interval_means(nats, [2, 3, 5]) == pytest.approx([2.0, 4.0, 17 / 3])
    assert reading.texts_of(torch.arange(11), 3, 2).tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert reading.texts_of(torch.arange(5), 9, 4).tolist() == [[0, 1, 2, 3, 4]]


# The command


def test_the_table_holds_the_perplexities_of_the_runs(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another text, columns of other tokens, or a ratio of other perplexities."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    words = ["--runs", str(run), "--window", "4", "--sinks", "0", "3", "--tokens", "150"]
    assert sinks.main([*words, "--split", "train"]) == 0
    printed = capsys.readouterr().out
    about, result = load(run / "report" / "sinks.json", SinksResult)
    (group,) = result.groups
    assert group.reading.ends == [4, 32, 64, 128, 150] and group.reading.windows == [4, 4]
    opened = open_trained(run)
    tokens = open_text(opened.config.data, opened.config.tokenizer)[1].tokens("train")[:]
    texts = reading.texts_of(torch.from_numpy(tokens.astype("int64")), 150, sinks.TEXTS)
    nats = {
        count: nats_of(opened.with_settings(sliding_window=4, attention_sinks=count).model, texts)
        for count in (0, 3)
    }
    ends = group.reading.ends
    for count, way in zip((0, 3), group.ways, strict=True):
        for start, end, cell in zip([0, *ends], ends, way.perplexities, strict=False):
            expected = nats[count][:, start:end].mean().exp().item()
            assert cell is not None and cell.mean == pytest.approx(expected, rel=1e-4)
    ratio = (nats[0][:, 4:].mean() - nats[3][:, 4:].mean()).exp().item()
    assert group.ways[0].ratio.mean == pytest.approx(ratio, rel=1e-4)
    assert f"{ratio:.3f}" in printed and "picture: " in printed
    html = page("t", [], [sinks.section(about, result)])
    assert "first tokens leave the window" in html and html.count("<svg") == 2


def test_intervals_are_over_seeds(finished: Path, tmp_path: Path) -> None:
    """Intervals of the perplexities themselves, which can be negative, or not paired."""
    runs = tuple(
        Path(shutil.copytree(finished, tmp_path / f"seed-{n}", ignore=lambda _, names: []))
        for n in range(2)
    )
    plan = Plan([0, 1], 4, "train", 60, 24, 2, "best")
    group = measure(Group("g", runs), plan)
    for way in group.ways:  # equal runs: no spread
        assert way.ratio.n == 2 and way.after.low == pytest.approx(way.after.high)
    assert len(group.readings) == 2 and group.readings[0] == group.readings[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """The folder of the three variants, two steps each, which the command has trained."""
    folder = tmp_path_factory.mktemp("sinks")
    assert sinks.main(command(folder, text)) == 0
    return folder


def command(folder: Path, text: Path) -> list[str]:
    words = [tiny.QUICKSTART, *tiny.SETTINGS, f"data.path={text}", *SHORT]
    words += ["model.sliding_window=null", "--seeds", "1", "--folder", str(folder)]
    return [*words, "--sinks", "0", "1", "--tokens", "100"]


def test_the_command_trains_three_variants_once(trained: Path, text: Path) -> None:
    """A variant that is trained like another one, or trained again."""
    _, result = load(trained / "report" / "sinks.json", SinksResult)
    names = [group.name for group in result.groups]
    assert names == ["plain", "sink-token", "sink-logits"]
    models = [open_trained(trained / name / "seed-0").model.config for name in names]
    assert [(m.sink_token, m.sink_logits) for m in models] == [
        (False, False), (True, False), (False, True)
    ]  # fmt: skip
    assert all(
        group.reading.windows == [16, 16] for group in result.groups
    )  # half the trained length
    by_name = {group.name: group for group in result.groups}
    assert by_name["sink-token"].way("sink token dropped") is not None
    assert by_name["plain"].reading.shares.sink is None
    assert by_name["sink-logits"].reading.shares.sink is not None
    files = {p: p.stat().st_mtime_ns for p in trained.rglob("*.safetensors")}
    assert sinks.main(command(trained, text)) == 0
    assert files == {p: p.stat().st_mtime_ns for p in trained.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "1"], "--tokens is 1"),
        (["--window", "0"], "--window is 0"),
        (["--sinks", "-1"], "--sinks is -1"),
        (["--sinks", "x"], "invalid int value"),
        (["--seeds", "0"], "--seeds is 0"),
        (["model.sink_token=true"], "the variants set model.sink_token"),
        (["model.sliding_window=8"], "need full attention"),
        (["--runs", "nowhere"], "neither a run nor a sweep"),
        (["--runs", "nowhere", "--seeds", "2"], "leave out CONFIG, --seeds"),
    ],
)
def test_bad_arguments_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or a training of something else."""
    assert message in refused(words, capsys)


def test_a_text_that_is_not_there_is_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of another text without a note; an IndexError, since an empty text has no token."""
    copy = Path(shutil.copy(text, tmp_path / "text.txt"))
    assert tiny.start(tmp_path / "run", copy, *SHORT, "data.test_fraction=0") == 0
    words = ["--runs", str(tmp_path / "run"), "--tokens", "100"]
    assert "has no test split" in refused(words, capsys)
    copy.write_text(copy.read_text().replace("king", "cook"))
    assert "no longer what it was trained on" in refused(words, capsys)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must print one line of error and no table; return the line."""
    capsys.readouterr()
    assert sinks.main(words) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert printed.out == "" and len(lines) == 1 and "Traceback" not in printed.err
    return lines[0]


def test_what_the_sentences_say() -> None:
    """A verdict that does not follow from the numbers."""
    from experiments.streams.page import _verdict

    assert _verdict([3.0, 1.6]) == "the model needs"
    assert _verdict([2.16, 1.04, 2.41]) == "2 of 3 models (by seed: 2.16, 1.04, 2.41) need"
    assert _verdict([1.0, 0.99]) == "the model does not need"
    assert _verdict([1.0, 1.2]) == "the model hardly needs"
