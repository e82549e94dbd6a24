"""A model that comes with a tokenizer.json is trained, resumed and sampled as any other."""

from pathlib import Path

import pytest
from json_models import EOS, byte_level, llama_sentencepiece
from tiny import resume, start, words

from configs.load import config_from_dict
from data.json_tokenizer import mark_specials
from data.tokenizer import open_tokenizer
from inference.trained import open_trained
from interop.tokenizer_json import tokenizer_json
from model.transformer import Transformer
from run import model_config
from scripts import corpus, evaluate, sample
from training.checkpoint import save
from training.run_folder import find


def import_model(folder: Path, like: Path, tokenizer: bytes) -> Path:
    """Save a model with drawn weights and this tokenizer, with the config of the run `like`."""
    metadata = {k: v for k, v in find(like).metadata.items() if k not in ("format", "step")}
    config = config_from_dict(metadata["config"], str(like))
    model = Transformer(model_config(config, open_tokenizer(tokenizer).vocab_size))
    weights = dict(model.named_parameters())
    (folder / "checkpoints").mkdir(parents=True)
    save(folder / "checkpoints", 1, weights=weights, moments={}, tokenizer=tokenizer,
         metadata=metadata)  # fmt: skip
    return folder


@pytest.mark.parametrize("kind", ["byte level", "llama"])
def test_a_run_keeps_its_tokenizer_json(
    tmp_path: Path, finished: Path, text: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """The text could be tokenized by another vocabulary, also by scripts.corpus, the run could not
    be resumed, and its samples could lose the prompt's first space."""
    content = (
        mark_specials(byte_level(), None, EOS)
        if kind == "byte level"
        else mark_specials(tokenizer_json(llama_sentencepiece()).encode(), "<s>", "</s>")
    )
    first = import_model(tmp_path / "imported", finished, content)
    more = [f"train.init_from={first}", "tokenizer.type=bpe", "tokenizer.vocab_size=2048"]
    run = tmp_path / "run"
    assert corpus.main([*words(run, text, *more), "--show", "0"]) == 0
    rows = capsys.readouterr().out
    assert f"of {len(open_tokenizer(content).piece_ids)} are used in train" in rows
    assert "tokenizer.vocab_size" not in rows and "seconds, on this machine" in rows
    assert start(run, text, *more, "train.max_steps=3") == 0
    assert (run / "tokenizer.json").read_bytes() == content
    assert not (run / "tokenizer.model").exists()
    assert resume(run, text, *more, "train.max_steps=4") == 0
    opened = open_trained(run)
    assert opened.tokenizer.model_bytes == content
    assert opened.model.config.vocab_size == open_tokenizer(content).vocab_size
    assert evaluate.main([str(run)]) == 0
    capsys.readouterr()
    for prompt in ("the king", "  the king "):
        assert sample.main([str(run), "--prompt", prompt, "--max-tokens", "2"]) == 0
        assert capsys.readouterr().out.startswith(prompt)
