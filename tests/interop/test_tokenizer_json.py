"""interop/tokenizer_json.py against transformers, tokenizers and SentencePiece."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from json_models import EOS, byte_level, llama_sentencepiece
from kites import SIZE, TEXT

from data.choices import TOKENIZERS
from data.json_tokenizer import mark_specials
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import _LOSSLESS, train_tokenizer
from errors import UserError
from interop import tokenizer_agreement, tokenizer_samples
from interop.sentencepiece_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    read_sentencepiece,
)
from interop.tokenizer_agreement import ALIKE, OTHER, SPELLED, agreements
from interop.tokenizer_json import tokenizer_files, tokenizer_json


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return open_tokenizer(train_tokenizer(TEXT, type=request.param, vocab_size=SIZE[request.param]))


def write(tokenizer: Tokenizer, folder: Path, **config: Any) -> Any:
    """Write the files of an export, and config.json; return what AutoTokenizer makes of them."""
    import transformers

    for name, content in tokenizer_files(tokenizer).items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(config))
    return transformers.AutoTokenizer.from_pretrained(folder)


# ---------------------------------------------------------------------------- our own tokenizers


def test_transformers_encodes_as_ours(tokenizer: Tokenizer) -> None:
    """All kinds of text: no lost space, no rejoined character, no special token from its spelling.
    Only where a word is repeated, unigram's equal sums are rounded to another choice of pieces."""
    rows = {row.kind: row for row in agreements(tokenizer, 800, seed=0)}
    assert rows.keys() == tokenizer_samples.KINDS.keys()
    for kind, row in rows.items():
        assert row.restored == row.auto.total() == 100
        assert row.auto[SPELLED] == 0
        assert row.auto[ALIKE] == 100 or (kind == "repetition" and row.auto[ALIKE] >= 95)
        assert row.auto[OTHER] == row.alone[OTHER]
    assert rows["literals"].alone[SPELLED] > 20, (
        "read without tokenizer_config.json, <s> is special"
    )
    assert rows["stories"].alone[ALIKE] == 100


@pytest.mark.parametrize("kind", ["mistral", "ministral", "granite_swa"])
def test_no_architecture_brings_its_own_tokenizer(tmp_path: Path, kind: str) -> None:
    """transformers replaces the tokenizer of some architectures by a class of its own, which would
    put a space in front of every text."""
    ours = open_tokenizer(train_tokenizer(TEXT, type="bpe", vocab_size=340))
    auto = write(ours, tmp_path, model_type=kind)
    text = "  The kite <s> \u2581 said:\n\n\u00e9 <0x0A> "
    assert auto(text)["input_ids"] == ours.encode_prompt(text)
    assert auto("a", "b")["input_ids"] == ours.encode_prompt("a") + ours.encode_prompt("b")
    assert auto.decode(ours.encode_document(text), skip_special_tokens=True) == text
    assert auto.decode(ours.encode("a . b n't")) == "a . b n't", "spaces are cleaned up"
    assert (auto.bos_token_id, auto.eos_token_id) == (ours.bos_id, ours.eos_id)
    assert len(auto) == ours.vocab_size


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The columns add up to the number of texts; a tokenizer that loses text gives exit code 1."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer(TEXT, type="bpe", vocab_size=340))
    assert tokenizer_agreement.main([str(tmp_path), "--samples", "80"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(tokenizer_samples.KINDS) + 1
    name, *cells = lines[-1].strip("| ").split(" | ")
    drawn, alike, spelled, other, restored, *alone = map(int, cells)
    assert (name, drawn, restored) == ("all", 80, 80)
    assert alike + spelled + other == sum(alone) == 80
    assert tokenizer_agreement.main([str(tmp_path / "nothing")]) == 2
    assert tokenizer_agreement.main([str(tmp_path), "--samples", "7"]) == 2  # a table of zeros
    assert "nothing does not exist" in capsys.readouterr().err


def test_a_lossy_export_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The count of restored texts could count nothing: here spaces are cleaned up and lost."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer(TEXT, type="bpe", vocab_size=340))
    files = tokenizer_files(open_tokenizer(path.read_bytes()))
    lossy = json.loads(files["tokenizer.json"])
    lossy["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    changed = files | {"tokenizer.json": json.dumps(lossy).encode()}
    monkeypatch.setattr(tokenizer_agreement, "tokenizer_files", lambda _: changed)
    assert tokenizer_agreement.main([str(path), "--samples", "80"]) == 1
    assert int(capsys.readouterr().out.splitlines()[-1].split(" | ")[5]) < 80


# ---------------------------------------------------------------------------- others' tokenizers


def test_a_model_trained_here_gets_its_bos(tmp_path: Path) -> None:
    """Breeze trains on texts that begin with BOS; without it, the exported model starts otherwise.

    A model that was only imported keeps its tokenizer.json as it was.
    """
    import transformers

    original = byte_level()
    tokenizer = open_tokenizer(mark_specials(original, None, EOS))
    for trained, first in ((True, [tokenizer.bos_id]), (False, [])):
        for name, content in tokenizer_files(tokenizer, trained=trained).items():
            (tmp_path / name).write_bytes(content)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert theirs("a red kite").input_ids == first + tokenizer.encode("a red kite")


@pytest.mark.parametrize("type", TOKENIZERS)
def test_a_model_with_a_dummy_prefix(type: str) -> None:
    """tokenizer.model of Llama 2's kind: the same ids and text as in SentencePiece, where the
    character \u2581 is a space too. SentencePiece's own decoder loses spaces at the beginning."""
    model = llama_sentencepiece(type)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=model)
    converted = tokenizers.Tokenizer.from_str(tokenizer_json(model))
    converted.encode_special_tokens = True
    for kind in ("stories", "white space", "mixed scripts", "literals"):
        for text in tokenizer_samples.draw_samples(kind, 50, seed=3):
            ids = converted.encode(text).ids
            assert ids == oracle.encode(text, add_bos=True)
            assert converted.decode(ids) == text.replace("\u2581", " ")


def test_the_file_is_read_as_sentencepiece_reads_it(tokenizer: Tokenizer) -> None:
    """Our parser of protobuf could skip or mix up a field."""
    oracle = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    model = read_sentencepiece(tokenizer.model_bytes)
    ids = range(oracle.vocab_size())
    assert [piece.text for piece in model.pieces] == [oracle.id_to_piece(id) for id in ids]
    assert [piece.score for piece in model.pieces] == [oracle.get_score(id) for id in ids]
    tests = {
        UNKNOWN: oracle.is_unknown, CONTROL: oracle.is_control, BYTE: oracle.is_byte,
    }  # fmt: skip
    for id, piece in enumerate(model.pieces):
        assert piece.type == next((t for t, is_type in tests.items() if is_type(id)), NORMAL)
    assert (model.unk_id, model.bos_id, model.eos_id) == (0, 1, 2)
    assert (model.normalization, model.dummy_prefix, model.removes_spaces) == (
        "identity", False, False,
    )  # fmt: skip
    assert read_sentencepiece(llama_sentencepiece(eos_id=-1, bos_id=5)).eos_id == -1
    assert read_sentencepiece(llama_sentencepiece()).dummy_prefix


def test_fields_that_are_not_written_have_their_defaults() -> None:
    """Those of sentencepiece_model.proto: a file may leave them out."""
    model = read_sentencepiece(b"".join(b"\n\x03\n\x01" + name for name in (b"u", b"s", b"e")))
    assert [piece.text for piece in model.pieces] == ["u", "s", "e"]
    assert {(piece.score, piece.type) for piece in model.pieces} == {(0.0, NORMAL)}
    assert (model.type, model.unk_id, model.bos_id, model.eos_id) == (UNIGRAM, 0, 1, 2)
    assert (model.dummy_prefix, model.removes_spaces, model.suffix_spaces) == (True, True, False)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "changes characters by the rule nmt_nfkc"),
        ({"remove_extra_whitespaces": True}, "removes spaces"),
        ({"byte_fallback": False, "vocab_size": 80}, "has no byte fallback"),
        ({"eos_id": -1}, "lacks <s> or </s>"),
        ({"user_defined_symbols": ["<kite>"]}, "defined by its user"),
        ({"treat_whitespace_as_suffix": True}, "end in their space"),
    ],
)
def test_what_tokenizer_json_would_carry_wrongly_is_refused(
    settings: dict[str, Any], reason: str
) -> None:
    """The ids would differ, without a word."""
    model = io.BytesIO()
    sizes = {"vocab_size": 340, "model_type": "bpe", "add_dummy_prefix": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, **(_LOSSLESS | sizes | settings)
    )
    with pytest.raises(UserError, match=reason):
        tokenizer_json(model.getvalue())


def test_what_is_no_sentencepiece_model_is_refused() -> None:
    """A download that is cut off, or another file under this name."""
    whole = llama_sentencepiece()
    for garbage in (b"", b"garbage", b"\n\xff", bytes(range(256)) * 9, b"\0" * 99, whole[:100]):
        with pytest.raises(UserError, match="not a SentencePiece model"):
            tokenizer_json(garbage)


def test_an_imported_tokenizer_is_exported_as_it_was(tmp_path: Path) -> None:
    """A fine-tuned model keeps the tokenizer that others know, without our marks."""
    content = byte_level()
    ours = open_tokenizer(mark_specials(content, None, EOS))
    auto = write(ours, tmp_path, model_type="mistral")
    assert json.loads((tmp_path / "tokenizer.json").read_bytes()) == json.loads(content)
    text = "  The kite said: \u00e9 n't ."
    assert auto(text)["input_ids"] == ours.encode(text)
    assert auto.decode(ours.encode(text)) == text
    assert (auto.bos_token_id, auto.eos_token_id) == (ours.bos_id, ours.eos_id)
