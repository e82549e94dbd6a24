"""The trained tokenizer: every text is restored, streams equal `decode`, bad input is an error."""

import io
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from kites import SIZE, TEXT

from data import sentencepiece_tokenizer
from data.choices import TOKENIZERS
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import _LOSSLESS, train_tokenizer
from errors import UserError

NASTY = [
    "", " ", "  ", "   leading", "trailing   ", "a  b   c", "\n", "\n\n\n", "\t", "a\r\nb\rc\n",
    "\0", "a\0b", "\u2581", "a\u2581b \u2581 \u2581\u2581", "\u2585", "\ufffd", "\ufeffx",
    "<s>", "</s>", "<unk>", "<0x41>", "<s>the</s>", "\u2581<s>", "⁇", "𝔘𝔫𝔦 ﬁ ① ｱ", "e\u0301 é",
    "👨‍👩‍👧‍👦🏳️‍🌈", "\u202e\u200d\u2028\u0085\u00a0\u3000", "\U0010ffff\uffff", "कि्ष 中文 עברית",
    "x" * 5000, " " * 5000, "ab\n" * 3000,
]  # fmt: skip


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return open_tokenizer(train_tokenizer(TEXT, type=request.param, vocab_size=SIZE[request.param]))


@pytest.fixture(scope="module")
def bpe() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_tokenizer(TEXT, type="bpe", vocab_size=340))


def random_texts(count: int) -> list[str]:
    """Return texts from all of Unicode without surrogates, with many characters of `TEXT`."""
    draw = random.Random(0)
    texts = []
    for _ in range(count):
        known = draw.choices("the kite.,\n  \t\r\0\u2581<s>/", k=12)
        ranges = [(0, 0x80), (0x80, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
        wild = [chr(draw.randrange(*draw.choice(ranges))) for _ in range(8)]
        mixed = known + wild
        draw.shuffle(mixed)
        texts.append("".join(mixed))
    return texts


# ---------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text[:12]))
def test_nasty_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    """Spaces, newlines, SentencePiece's own marks, spelled specials: nothing is lost or added."""
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(id > 2 for id in ids), "a special token came from its spelling, or an unknown one"


def test_random_text_comes_back(tokenizer: Tokenizer) -> None:
    for text in random_texts(400):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_character_comes_back(tokenizer: Tokenizer) -> None:
    """All 1,112,064 of Unicode's scalar values."""
    for start in range(0, 0x110000, 0x800):
        if start != 0xD800:
            text = "".join(map(chr, range(start, start + 0x800)))
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_bytes_come_back(tokenizer: Tokenizer) -> None:
    """Decoded as Latin-1, as UTF-8 with U+FFFD, and as UTF-8 with lone surrogates, as Python
    decodes a command line."""
    draw = random.Random(3)
    for _ in range(300):
        content = draw.randbytes(draw.randrange(100))
        for text in (content.decode("latin-1"), content.decode("utf-8", "replace")):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        escaped = content.decode("utf-8", "surrogateescape")
        expected = escaped.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        assert tokenizer.decode(tokenizer.encode(escaped)) == expected


def test_a_lone_surrogate_becomes_a_replacement_character(
    tokenizer: Tokenizer,
) -> None:
    """A prompt from the command line may hold one; UTF-8 cannot."""
    assert tokenizer.decode(tokenizer.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"


def test_blocks_do_not_change_the_pieces(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text longer than a block is encoded as if it were not cut, where it has single spaces."""
    text = "".join(TEXT).replace("  ", " ")
    whole = tokenizer.encode(text)
    monkeypatch.setattr(sentencepiece_tokenizer, "_BLOCK", 50)
    assert tokenizer.encode(text) == whole
    monkeypatch.setattr(sentencepiece_tokenizer, "_BLOCK", 1)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kept", [0, 3, 1 << 17])
def test_the_cache_of_words_does_not_change_the_pieces(
    monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """The cached ids of a word are those that SentencePiece gives within the text, also
    beside several spaces, which are pieces too, and when the cache is full."""
    monkeypatch.setattr(sentencepiece_tokenizer, "_MAX_WORDS", kept)
    code = ["if the kite:\n        fly()\n    land(the,  kite)\n" * 9]
    fresh = SentencePieceTokenizer(train_tokenizer(TEXT + code, type="bpe", vocab_size=360))
    assert any(fresh.piece(id) == "\u2581\u2581" for id in range(259, 360))
    draw = random.Random(4)
    words = [" ", "  ", "kite", "the", "\n", ".", "It was", "é", "<s>"]
    texts = ["".join(draw.choices(words, k=40)) for _ in range(300)]
    for text in [*TEXT, *texts, *random_texts(100), "", " ", "   ", "a" * 99 + "  b "]:
        if "\u2581" not in text:
            assert fresh.encode(text) == fresh._model.encode(text)
    assert fresh._word_ids is not None and len(fresh._word_ids) <= kept
    assert len(fresh._word_ids) > 100 or kept < 100


def test_only_independent_words_are_cached() -> None:
    """Unigram scores a whole text; another BPE model may end its pieces with the space."""
    unigram = SentencePieceTokenizer(train_tokenizer(TEXT, type="unigram", vocab_size=305))
    assert unigram._word_ids is None
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, model_type="bpe", vocab_size=340,
        treat_whitespace_as_suffix=True, **_LOSSLESS,
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(model.getvalue())
    assert tokenizer.decode(tokenizer.encode("The kite ")[-1:]) == "e "
    assert tokenizer.encode(TEXT[0]) == tokenizer._model.encode(TEXT[0])


def test_documents_and_prompts_have_special_tokens(tokenizer: Tokenizer) -> None:
    """SentencePiece itself adds the same two tokens when it is asked to; a text that spells them
    gets no third."""
    reference = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    for text in ["", "The kite", "</s>the kite<s>"]:
        document = reference.encode(text, add_bos=True, add_eos=True)
        assert tokenizer.encode_document(text) == document
        assert tokenizer.encode_prompt(text) == document[:-1]
        assert tokenizer.decode(document) == text


# ---------------------------------------------------------------------------- decoding


def test_all_ids_can_be_decoded(tokenizer: Tokenizer) -> None:
    """Any ids in range decode: broken bytes to U+FFFD, as Python's own decoder, specials to ""."""
    byte = [tokenizer.encode("\0")[0] + value for value in range(256)]
    assert tokenizer.decode([byte[0xC3], byte[0xA9]]) == "é"
    assert tokenizer.decode([byte[0xC3], byte[0x41], byte[0xFF]]) == "\ufffdA\ufffd"
    assert tokenizer.decode([tokenizer.bos_id, byte[0x41], tokenizer.eos_id]) == "A"
    assert tokenizer.decode([]) == ""
    for id in range(tokenizer.vocab_size):
        assert isinstance(tokenizer.decode([id]), str)


@pytest.mark.parametrize("id", [-1, 1_000_000])
def test_ids_out_of_range_are_refused(bpe: SentencePieceTokenizer, id: int) -> None:
    """A negative index must not quietly mean the last piece."""
    with pytest.raises(UserError, match=f"token id {id} is not in the vocabulary: 0 to 339"):
        bpe.decode([id])
    with pytest.raises(UserError, match="not in the vocabulary"):
        bpe.piece(id)


def test_a_stream_equals_decode(tokenizer: Tokenizer) -> None:
    """For random ids, half of them bytes, so that characters break everywhere."""
    draw = random.Random(1)
    for _ in range(500):
        top = draw.choice([259, tokenizer.vocab_size])
        ids = [draw.randrange(top) for _ in range(30)]
        stream = tokenizer.stream()
        pushed = "".join(stream.push(id) for id in ids) + stream.flush()
        assert pushed == tokenizer.decode(ids)


def test_a_stream_holds_back_an_incomplete_character(bpe: SentencePieceTokenizer) -> None:
    """A terminal never gets half an emoji."""
    stream = bpe.stream()
    assert [stream.push(id) for id in bpe.encode("é👍")] == ["", "é", "", "", "", "👍"]
    assert stream.flush() == ""
    stream.push(bpe.encode("é")[0])
    assert stream.flush() == "\ufffd"
    assert stream.push(bpe.encode("t")[0]) == "t", "after a flush the stream starts again"


def test_a_stream_never_gives_half_a_character(tokenizer: Tokenizer) -> None:
    """After any token, the stream has returned the text up to the last complete character; `flush`
    adds what `decode` adds for the incomplete one."""
    text = "The kite é 中文, 👍🏽 कि्ष\u2581\U0010ffff.\n\nThen ﬁ \0 e\u0301!"
    ids = tokenizer.encode(text)
    stream, pushed = tokenizer.stream(), ""
    for stop, id in enumerate(ids, 1):
        pushed += stream.push(id)
        n_bytes = sum(len(tokenizer.token_bytes(id)) for id in ids[:stop])
        whole = text.encode()[:n_bytes].decode("utf-8", "ignore")
        assert pushed == whole
        cut = tokenizer.stream()
        given = "".join(map(cut.push, ids[:stop]))
        assert given + cut.flush() == tokenizer.decode(ids[:stop])
    assert pushed == text and stream.flush() == ""


# ---------------------------------------------------------------------------- bad models


def test_garbage_is_refused(bpe: SentencePieceTokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    """One line of ours; SentencePiece prints nothing."""
    whole = bpe.model_bytes
    for garbage in (b"", b"garbage", bytes(range(256)) * 9, whole[:100], whole[:-1], b"\0" * 99):
        with pytest.raises(UserError, match="the tokenizer"):
            SentencePieceTokenizer(garbage)
    assert capfd.readouterr().err == ""


def test_a_model_that_loses_text_is_refused(tmp_path: Path) -> None:
    """SentencePiece's own defaults merge spaces; such a model would not give text back."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, vocab_size=45, minloglevel=2
    )
    with pytest.raises(UserError, match="the tokenizer loses text"):
        SentencePieceTokenizer(model.getvalue())


def test_damaged_models_never_crash(bpe: SentencePieceTokenizer) -> None:
    """The parser is C++: another process changes and deletes bytes of a model; no crash."""
    program = """
import random, sys
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from errors import UserError
model = sys.stdin.buffer.read()
tried = {"works": 0, "refused": 0}
for seed in range(1500):
    draw = random.Random(seed)
    damaged = bytearray(model)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(damaged))
        if draw.random() < 0.7:
            damaged[place] = draw.randrange(256)
        else:
            del damaged[place : place + draw.randrange(1, 30)]
    try:
        tokenizer = SentencePieceTokenizer(bytes(damaged))
        tokenizer.decode(tokenizer.encode("The kite \\u00e9\\n  <s>"))
        tokenizer.decode(range(tokenizer.vocab_size))
        tried["works"] += 1
    except UserError:
        tried["refused"] += 1
print(tried["works"], tried["refused"])
"""
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, input=bpe.model_bytes, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    works, refused = map(int, done.stdout.split())
    assert works + refused == 1500 and works > 20 and refused > 20
