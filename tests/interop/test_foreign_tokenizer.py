"""interop/foreign_tokenizer.py: which tokenizer of a folder is used, and that it is the model's."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tiny
from foreign import byte_tokenizer

from data.json_tokenizer import JsonTokenizer
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from errors import UserError
from interop.foreign_tokenizer import folder_tokenizer
from interop.tokenizer_json import tokenizer_files

pytest.importorskip("transformers", reason="not installed: pip install -e '.[dev]'")

TEXTS = ("the old king", "  walks\n\nunder ", "caf\u00e9 \U0001f300 12", "<s>", "")


def trained(**changes: object) -> bytes:
    """Return a SentencePiece model of made-up English, with the usual dummy prefix."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.english(4000).splitlines()), model_writer=out, vocab_size=400,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, **changes,
    )  # fmt: skip
    return out.getvalue()


def test_a_tokenizer_of_breeze_is_kept(finished: Path, tmp_path: Path) -> None:
    """A model that was exported would come back with another tokenizer."""
    pieces = (finished / "tokenizer.model").read_bytes()
    for name, content in tokenizer_files(SentencePieceTokenizer(pieces)).items():
        (tmp_path / name).write_bytes(content)
    assert folder_tokenizer(tmp_path).model_bytes == pieces
    (tmp_path / "tokenizer.json").unlink()
    assert folder_tokenizer(tmp_path).model_bytes == pieces


def test_tokenizer_json_encodes_as_transformers_does(finished: Path, tmp_path: Path) -> None:
    """Other ids than those of the training: the model would read nonsense. A tokenizer.model that
    belongs to another model must not be used."""
    theirs = byte_tokenizer()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((finished / "tokenizer.model").read_bytes())
    ours = folder_tokenizer(tmp_path)
    assert isinstance(ours, JsonTokenizer)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    for text in (*TEXTS[:3], ""):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ours.encode(text)) == text


def test_a_sentencepiece_model_with_a_dummy_prefix_is_converted(tmp_path: Path) -> None:
    """Llama 2's and Mistral's tokenizer.model puts a space in front of every text. Without it, the
    first word has other ids than in training."""
    pieces = trained()
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    ours = folder_tokenizer(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    assert isinstance(ours, JsonTokenizer) and ours.vocab_size == theirs.vocab_size() == 400
    for text in TEXTS[:3]:
        assert ours.encode_prompt(text) == [theirs.bos_id(), *theirs.encode(text)]


@pytest.mark.parametrize("style", ["text", "object", "special_tokens_map.json"])
def test_the_names_of_the_specials_are_found(style: str, tmp_path: Path) -> None:
    """Versions of transformers write them in three ways; with wrong ones, no text would end."""
    byte_tokenizer().save_pretrained(tmp_path)
    values: dict[str, object] = {"bos_token": "<s>", "eos_token": "</s>"}
    if style == "object":
        values = {key: {"content": value, "lstrip": False} for key, value in values.items()}
    name = style if style.endswith("json") else "tokenizer_config.json"
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / name).write_text(json.dumps(values))
    ours = folder_tokenizer(tmp_path)
    assert (ours.bos_id, ours.eos_id) == (0, 1)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tokenizer.model", b"nothing", "tokenizer.model: "),
        ("tokenizer.json", b"{}", "tokenizer.json: the tokenizer is no tokenizer.json"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    """An error that does not say which file to replace."""
    (tmp_path / name).write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(UserError, match=expected):
        folder_tokenizer(tmp_path)
