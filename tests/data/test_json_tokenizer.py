"""data/json_tokenizer.py against the library `tokenizers`: ids, bytes, streams, refusals."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from json_models import EOS, byte_level, changed, llama_sentencepiece
from kites import TEXT

from data import tokenizer as tokenizer_module
from data.json_tokenizer import JsonTokenizer, mark_specials, without_marks
from data.tokenizer import Tokenizer, open_tokenizer
from errors import UserError
from interop.tokenizer_json import tokenizer_json

TEXTS = [
    "", " ", "   leading", "trailing   ", "The kite said:\n\n\tit flew.\r\n",
    "é 中文 👍🏽 \U0010ffff\0",
    "<s>the</s> <unk> <0x41> <|endoftext|>", "x" * 3000, "kite " * 3000, "e\u0301 ﬁ \u2028\u00a0",
]  # fmt: skip


def metaspace(content: bytes) -> bytes:
    """Write the dummy prefix as newer files of Llama 2 do: in a pre-tokenizer."""
    space = {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": "first",
        "split": False,
    }
    return changed(content, normalizer=None, pre_tokenizer=space)


LLAMA = tokenizer_json(llama_sentencepiece()).encode()
KINDS = {
    "byte level": mark_specials(byte_level(), None, EOS),
    "llama": mark_specials(LLAMA, "<s>", "</s>"),
    "metaspace": mark_specials(metaspace(LLAMA), "<s>", "</s>"),
}


@pytest.fixture(params=KINDS)
def content(request: pytest.FixtureRequest) -> bytes:
    return KINDS[request.param]


@pytest.fixture
def tokenizer(content: bytes) -> Tokenizer:
    return open_tokenizer(content)


def library(content: bytes) -> tokenizers.Tokenizer:
    """Return the oracle: the library, told to read specials in a text as text."""
    found = tokenizers.Tokenizer.from_str(without_marks(content).decode())
    found.encode_special_tokens = True
    return found


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:12]))
def test_ids_are_those_of_the_library(content: bytes, text: str) -> None:
    """A document begins as the library begins a text, dummy prefix included, after one BOS. A text
    within a document is restored exactly, and spells no special token."""
    tokenizer, oracle = open_tokenizer(content), library(content)
    ids = oracle.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_prompt(text) == [tokenizer.bos_id, *ids]
    assert tokenizer.encode_document(text) == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    inside = tokenizer.encode(text)
    assert tokenizer.decode(inside) == text
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(inside)


def test_the_dummy_prefix_begins_documents_only() -> None:
    """A prompt that is cut in two would get a space in the middle."""
    for kind in ("llama", "metaspace"):
        tokenizer = open_tokenizer(KINDS[kind])
        assert tokenizer.decode(tokenizer.encode_prompt("kite")) == " kite"
        assert tokenizer.encode_prompt("kite")[1:] == tokenizer.encode(" kite")
        assert tokenizer.decode([*tokenizer.encode("ki"), *tokenizer.encode("te")]) == "kite"
    byte = open_tokenizer(KINDS["byte level"])
    assert byte.encode_prompt("kite")[1:] == byte.encode("kite")
    steps = json.loads(byte_level())["pre_tokenizer"] | {"add_prefix_space": True}
    spaced = open_tokenizer(mark_specials(changed(byte_level(), pre_tokenizer=steps), None, EOS))
    assert spaced.encode_prompt("kite")[1:] == spaced.encode(" kite") == byte.encode(" kite")
    assert spaced.encode("kite") == byte.encode("kite")


def test_llama_ids_are_those_of_sentencepiece() -> None:
    """Converter and reader together: a tokenizer.model of Llama 2's kind gives the same ids here as
    in SentencePiece."""
    model = llama_sentencepiece()
    oracle = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = open_tokenizer(KINDS["llama"])
    for text in TEXTS:
        assert tokenizer.encode_document(text) == oracle.encode(text, add_bos=True, add_eos=True)


def test_ids_are_decoded_as_the_library_does(tokenizer: Tokenizer, content: bytes) -> None:
    """GPT-2's alphabet and <0xNN> are inverted here. Any ids of byte-level BPE; of Llama's kind all
    pieces, because the library's byte fallback marks each byte of a broken character."""
    draw, oracle = random.Random(0), library(content)
    byte_level = tokenizer.piece(tokenizer.eos_id) == EOS
    drawn = range(tokenizer.vocab_size) if byte_level else tokenizer.piece_ids
    rows = [draw.choices(drawn, k=20) for _ in range(300)]
    for ids in [*rows, *map(tokenizer.encode_document, TEXTS)]:
        text = oracle.decode(ids)
        assert tokenizer.decode(ids) in (text, f" {text}")


def test_a_stream_equals_decode(tokenizer: Tokenizer) -> None:
    """For random ids, so that characters break everywhere; for text, no half character is given."""
    draw = random.Random(1)
    rows = [[draw.randrange(tokenizer.vocab_size) for _ in range(30)] for _ in range(200)]
    for ids in [*rows, *map(tokenizer.encode, TEXTS)]:
        stream = tokenizer.stream()
        pushed = "".join(map(stream.push, ids))
        assert pushed + stream.flush() == tokenizer.decode(ids)
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode("é👍"))) == "é👍".encode()


def test_sizes_names_and_pieces(tokenizer: Tokenizer, content: bytes) -> None:
    """The embedding has a row for each token; drills draw from pieces, never from a special."""
    vocabulary = library(content).get_vocab()
    assert tokenizer.vocab_size == len(vocabulary)
    assert {tokenizer.piece(id): id for id in range(tokenizer.vocab_size)} == vocabulary
    specials = {id for name, id in vocabulary.items() if name in (EOS, "<s>", "</s>", "<unk>")}
    in_bytes = {id for name, id in vocabulary.items() if name.startswith("<0x")}
    assert set(tokenizer.piece_ids) == set(vocabulary.values()) - specials - in_bytes
    assert all(tokenizer.token_bytes(id) == b"" for id in specials)
    with pytest.raises(UserError, match="token id -1 is not in the vocabulary"):
        tokenizer.piece(-1)


def test_marks_are_kept_and_removed(content: bytes) -> None:
    """A checkpoint holds bytes only: BOS and EOS must be in them. An export holds no marks."""
    tokenizer = open_tokenizer(content)
    assert isinstance(tokenizer, JsonTokenizer)
    names = tokenizer.piece(tokenizer.bos_id), tokenizer.piece(tokenizer.eos_id)
    assert names in ((EOS, EOS), ("<s>", "</s>"))
    assert open_tokenizer(tokenizer.model_bytes).fingerprint() == tokenizer.fingerprint()
    assert mark_specials(content, *names) == content
    assert b"breeze" in content and b"breeze" not in without_marks(content)
    assert library(content).to_str() == tokenizers.Tokenizer.from_str(content.decode()).to_str()


def test_added_tokens_that_are_no_specials_are_text() -> None:
    """Some vocabularies add runs of spaces or words as tokens: they are text, found in text."""
    made = tokenizers.Tokenizer.from_str(byte_level().decode())
    made.add_tokens(["    ", "zebra\u00e9"])
    tokenizer = open_tokenizer(mark_specials(made.to_str().encode(), None, EOS))
    ids = tokenizer.encode("a    zebra\u00e9")
    assert ids[-2:] == [tokenizer.vocab_size - 2, tokenizer.vocab_size - 1]
    assert tokenizer.decode(ids) == "a    zebra\u00e9"


def test_a_file_that_cuts_or_pads_does_neither_here() -> None:
    """A tokenizer.json may hold a truncation, which would end every document at its length."""
    made = tokenizers.Tokenizer.from_str(byte_level().decode())
    made.enable_truncation(4)
    made.enable_padding(length=4)
    tokenizer = open_tokenizer(mark_specials(made.to_str().encode(), None, EOS))
    assert tokenizer.decode(tokenizer.encode("The kite flew over it.")) == "The kite flew over it."
    assert len(tokenizer.encode("a")) == 1


def test_blocks_do_not_change_the_ids(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library needs 250 bytes for each character of a text, so a long text is cut before a
    space. Only its first block is the beginning of a document."""
    text = "".join(TEXT).replace("  ", " ")
    whole = tokenizer.encode_document(text)
    monkeypatch.setattr(tokenizer_module, "_BLOCK", 50)
    assert tokenizer.encode_document(text) == whole
    monkeypatch.setattr(tokenizer_module, "_BLOCK", 1)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_lone_surrogate_becomes_a_replacement_character(tokenizer: Tokenizer) -> None:
    """A prompt from the command line may hold one; the library raises for it."""
    assert tokenizer.decode(tokenizer.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"


# ---------------------------------------------------------------------------- refusals


BYTE_LEVEL = byte_level()
STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
WORD_PIECE = {"type": "WordPiece", "prefix": "##", "cleanup": True}
NO_BYTES = json.loads(LLAMA)["model"] | {"byte_fallback": False}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "no tokenizer.json of Hugging Face"),
        (b'{"model": {}}', "no tokenizer.json of Hugging Face"),
        (changed(LLAMA, added_tokens=[{"content": []}]), "no tokenizer.json of Hugging Face"),
        (BYTE_LEVEL[: len(BYTE_LEVEL) // 2], "no tokenizer.json of Hugging Face"),
        (b'{"model": {"type": "x"}, "added_tokens": []}', "cannot be used"),
        (BYTE_LEVEL, "does not say which tokens are BOS and EOS"),
        (changed(KINDS["byte level"], decoder=None), "has the decoder none"),
        (changed(KINDS["byte level"], decoder=WORD_PIECE), "has the decoder WordPiece"),
        (changed(KINDS["llama"], normalizer=STRIP), "loses text"),
        (changed(KINDS["llama"], model=NO_BYTES), "loses text"),
    ],
)
def test_what_cannot_be_used_is_refused(content: bytes, reason: str) -> None:
    """One line, and not a traceback of the library."""
    with pytest.raises(UserError, match=reason):
        open_tokenizer(content)


def test_special_tokens_must_exist() -> None:
    with pytest.raises(UserError, match="no added token '</x>', the model's eos"):
        mark_specials(BYTE_LEVEL, EOS, "</x>")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tokenizers` comes with an extra only."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[export\]"'):
        open_tokenizer(KINDS["llama"])


def test_a_decoder_of_patterns_is_refused() -> None:
    step = {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}
    with pytest.raises(UserError, match="replaces a pattern"):
        open_tokenizer(changed(KINDS["llama"], decoder=step))


def test_sentencepiece_needs_no_tokenizers() -> None:
    """Breeze's own tokenizer must work without the extra."""
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from data.tokenizer import open_tokenizer\n"
        "assert open_tokenizer(sys.stdin.buffer.read()).decode([5]) == chr(2)"
    )
    root = Path(__file__).parents[2]
    model = llama_sentencepiece(add_dummy_prefix=False)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, input=model, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("id", [3, -1, 10**7, 2**31, 2**32 - 1, "1", None])
def test_an_odd_id_is_refused_before_the_library_reads_it(id: object) -> None:
    """`tokenizers` panics if two tokens have one id, and takes memory up to the largest id."""
    content = json.loads(KINDS["byte level"])
    content["model"]["vocab"]["!"] = id
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        open_tokenizer(json.dumps(content).encode())
