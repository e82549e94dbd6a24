"""data/vocabulary.py: the pieces, rare characters, impossible sizes, and the child process."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
import tiny
from kites import SIZE, TEXT
from processes import processes_with

from data import vocabulary
from data.choices import TOKENIZERS
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return open_tokenizer(train_tokenizer(TEXT, type="bpe", vocab_size=340))


@pytest.mark.parametrize("type", TOKENIZERS)
def test_training_is_deterministic(type: str) -> None:
    """Two processes, hashing strings differently, learn the same bytes."""
    program = (
        "import hashlib; from data.vocabulary import train_tokenizer; "
        "from tests.data.kites import TEXT; "
        f"model = train_tokenizer(TEXT, type={type!r}, vocab_size={SIZE[type]}); "
        "print(hashlib.sha256(model).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    other = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    model = train_tokenizer(iter(TEXT), type=type, vocab_size=SIZE[type])
    assert other.stdout.strip() == hashlib.sha256(model).hexdigest()
    assert open_tokenizer(model).fingerprint() == hashlib.sha256(model).hexdigest()


def test_char_has_a_token_for_each_character() -> None:
    """Specials, bytes and the characters, newline, tab and space among them; no more."""
    model = open_tokenizer(train_tokenizer(["ab\tc\n", "b a"], type="char", vocab_size=1000))
    assert model.vocab_size == 3 + 256 + len("abc\t\n ")
    assert [model.decode([id]) for id in model.encode("a b\n\tc")] == list("a b\n\tc")
    assert model.encode("z") == [3 + ord("z")], "an unknown character is spelled in bytes"


def test_pieces_hold_no_word_together_with_a_newline(bpe: Tokenizer) -> None:
    """Punctuation may take its newline along; a word must not."""
    pieces = [bpe.piece(id) for id in range(259, bpe.vocab_size)]
    with_newline = [piece for piece in pieces if "\n" in piece]
    assert "\n" in pieces and any(len(piece) > 1 for piece in with_newline)
    assert not any(character.isalnum() for piece in with_newline for character in piece)


def test_long_lines_and_reserved_characters_are_learnt_from() -> None:
    """SentencePiece skips a line over 4,192 bytes or with U+2585, and prints nothing about it."""
    long = open_tokenizer(train_tokenizer(["kite " * 5000], type="bpe", vocab_size=269))
    assert len(long.encode(" kite kite")) == 2
    marked = open_tokenizer(train_tokenizer(["kite \u2585 kite\n" * 9], type="bpe", vocab_size=269))
    assert len(marked.encode(" kite kite")) <= 3


def test_a_text_without_spaces_is_learnt_from() -> None:
    """One word of 200,000 characters is longer than any line SentencePiece would take."""
    model = open_tokenizer(train_tokenizer(["中文" * 100_000], type="bpe", vocab_size=264))
    assert len(model.encode("中文")) == 1


@pytest.mark.parametrize("type", TOKENIZERS)
def test_digits_stand_alone(type: str) -> None:
    """A number is spelled digit by digit, however frequent it is."""
    tokenizer = open_tokenizer(train_tokenizer(TEXT, type=type, vocab_size=SIZE[type]))
    pieces = [tokenizer.piece(id) for id in range(259, tokenizer.vocab_size)]
    assert {"2", "7"} <= set(pieces)
    assert not any(len(piece) > 1 for piece in pieces if any(map(str.isdigit, piece)))


def test_training_stops_at_its_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A huge corpus does not fill the memory; a note names the limit."""
    monkeypatch.setattr(vocabulary, "TRAINING_LIMIT", 6)
    model = open_tokenizer(train_tokenizer(["abc", "defg", "h"], type="char", vocab_size=999))
    assert model.vocab_size == 259 + len("abcdef\n ")
    assert "note: the tokenizer learns from the first 6 characters" in capsys.readouterr().err


def test_training_prints_what_it_does(capfd: pytest.CaptureFixture[str]) -> None:
    """One line, and nothing from SentencePiece itself."""
    train_tokenizer(TEXT, type="bpe", vocab_size=310)
    printed = capfd.readouterr()
    assert printed.out == ""
    line, end = printed.err.split("...")
    assert line == "training the tokenizer (bpe, 310 pieces) on 0.0 MB "
    assert end.endswith(" s\n") and end.count("\n") == 1


@pytest.mark.parametrize("type", ["bpe", "unigram"])
def test_a_vocabulary_that_the_text_does_not_allow(type: str) -> None:
    """The largest possible is trained: the bytes are those of that size asked for, and
    SentencePiece itself refuses one piece more."""
    model = train_tokenizer(TEXT, type=type, vocab_size=99_999)
    largest = open_tokenizer(model).vocab_size
    assert 300 < largest < 1000
    assert model == train_tokenizer(TEXT, type=type, vocab_size=largest)
    with pytest.raises(RuntimeError, match=f"set it to a value <= {largest}"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(vocabulary._training_lines(TEXT)), model_prefix="unused",
            model_type=type, vocab_size=largest + 1, **vocabulary._LOSSLESS,
        )  # fmt: skip


@pytest.mark.parametrize("type", TOKENIZERS)
@pytest.mark.parametrize("vocab_size", [1, 3, 258, 261])
def test_vocabulary_too_small(type: str, vocab_size: int) -> None:
    """The size that the message names holds specials, bytes, newline, space and one letter, and
    the text comes back."""
    with pytest.raises(UserError, match=f"^vocab_size is {vocab_size}, too few") as caught:
        train_tokenizer(TEXT, type=type, vocab_size=vocab_size)
    smallest = int(str(caught.value).rsplit(" ", 1)[1])
    tokenizer = open_tokenizer(train_tokenizer(TEXT, type=type, vocab_size=smallest))
    assert tokenizer.vocab_size == smallest == 3 + 256 + 3
    assert tokenizer.decode(tokenizer.encode(TEXT[1])) == TEXT[1]


def test_refused_training(capfd: pytest.CaptureFixture[str]) -> None:
    """One line each, and no traceback of the child process."""
    with pytest.raises(UserError, match=r"^type is 'word': one of bpe, unigram, char"):
        train_tokenizer(TEXT, type="word", vocab_size=310)
    for nothing in (["", "\0"], []):
        with pytest.raises(UserError, match="there is no text to train a tokenizer on"):
            train_tokenizer(nothing, type="bpe", vocab_size=310)
    for type in TOKENIZERS:
        with pytest.raises(UserError, match="cannot train on so little text"):
            train_tokenizer(["\n"], type=type, vocab_size=310)
    assert "Traceback" not in capfd.readouterr().err


# ---------------------------------------------------------------------------- rare characters

RARE = [chr(0x4E00 + number) for number in range(6000)]
RARE_TEXT = tiny.english(60_000) + "".join(RARE) + "\U0001f600" * 30


@pytest.mark.parametrize(
    ("type", "vocab_size"), [(type, n) for type in TOKENIZERS for n in (300, 2048)]
)
def test_rare_characters_are_spelled_in_bytes(
    type: str, vocab_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The vocabulary has the size that was asked for, every character comes back, and the number
    and share that are printed are those counted from the pieces."""
    tokenizer = open_tokenizer(train_tokenizer([RARE_TEXT], type=type, vocab_size=vocab_size))
    printed = capsys.readouterr().err
    assert tokenizer.vocab_size == vocab_size
    single = {tokenizer.decode([id]) for id in range(259, vocab_size)}
    counts = Counter(RARE_TEXT)
    for character in counts:
        ids = tokenizer.encode(character)
        assert tokenizer.decode(ids) == character
        assert len(ids) == (1 if character in single else len(character.encode()))
    rare = set(counts) - single
    share = sum(counts[character] for character in rare) / len(RARE_TEXT)
    assert f"the text has {len(counts):,} different characters, too many for " in printed
    assert f": {len(rare):,} of them, {share:.2%} of the text, are spelled in bytes" in printed
    assert max(counts[c] for c in rare) <= min(
        counts[c] for c in set(counts) & single - {" ", "\n"}
    )


def test_rare_characters_do_not_crowd_out_words() -> None:
    """6,000 characters that occur once cost no word its piece."""
    pieces = []
    for text in (RARE_TEXT, tiny.english(60_000)):
        tokenizer = open_tokenizer(train_tokenizer([text], type="bpe", vocab_size=400))
        pieces.append({tokenizer.piece(id) for id in range(259, 400)})
    assert len(pieces[1] - pieces[0]) <= 1  # the emoji, which occurs 30 times, may take one


def test_characters_that_fit_all_have_a_piece(capsys: pytest.CaptureFixture[str]) -> None:
    """As many characters as pieces; with one piece less, one character is encoded in bytes."""
    text = ["".join(RARE[:500]) + " \n"]
    for vocab_size, spelled in ((761, 0), (760, 1)):
        tokenizer = open_tokenizer(train_tokenizer(text, type="char", vocab_size=vocab_size))
        lengths = [len(tokenizer.encode(character)) for character in text[0]]
        assert lengths.count(3) == spelled and lengths.count(1) == 502 - spelled
        assert ("are spelled in bytes" in capsys.readouterr().err) == bool(spelled)


# ---------------------------------------------------------------------------- the child process


def is_training(children: set[int]) -> bool:
    """Whether SentencePiece has started its threads in one of the processes."""
    return any(len(list(Path(f"/proc/{pid}/task").glob("*"))) > 2 for pid in children)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_training(tmp_path: Path, number: int) -> None:
    """Ctrl-C ends a training of minutes at once, and nothing is left: no process, no tokenizer.
    After a kill -9 of the parent, the child ends by itself."""
    draw = random.Random(0)
    (tmp_path / "dna.txt").write_text("".join(draw.choices("ACGT", k=1_500_000)))
    line = tiny.words(tmp_path / "run", tmp_path / "dna.txt", "tokenizer.type=unigram")
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, str(tiny.ROOT / "train.py"), *line], cwd=tmp_path, stderr=subprocess.PIPE,
        env=os.environ | {"BREEZE_CACHE": str(cache)},
    )  # fmt: skip
    assert process.stderr is not None
    printed = b""
    while b"training the tokenizer" not in printed:
        more = os.read(process.stderr.fileno(), 1000)
        assert more, printed
        printed += more
    marker = f"BREEZE_CACHE={cache}"
    while not is_training(set(processes_with(marker)) - {process.pid}):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    code = process.wait(30)
    printed += process.stderr.read() if number == signal.SIGINT else b""
    deadline = time.monotonic() + 30
    while processes_with(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_with(marker)
    assert not list(cache.rglob("*.model*")) and b"Traceback" not in printed
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)


def test_a_child_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system kills it when memory runs out, while the text is being sent or afterwards."""
    kill = "import os, signal, sys; {}os.kill(os.getpid(), signal.SIGKILL)"
    for read in ("", "sys.stdin.buffer.readline(); "):
        monkeypatch.setattr(vocabulary, "_PROGRAM", kill.format(read))
        with pytest.raises(UserError, match="was killed, possibly out of memory"):
            train_tokenizer(["kite " * 500_000], type="bpe", vocab_size=300)
