"""scripts/sample.py: any prompt, any length, the same text for the same seed."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from inference.rounding import rounding_cost
from inference.text import continue_text
from inference.trained import open_trained
from scripts import sample


def write(run: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command; returns what it wrote."""
    capsys.readouterr()
    assert sample.main([str(run), *words]) == 0
    return capsys.readouterr().out


PROMPTS = {
    "empty": "",
    "one letter": "T",
    "never seen": "日本語 \U0001f40d Ω\0\x1b[31m",
    "its own specials": "<s></s><unk><0x0A>\u2581",
    "100 windows": tiny.english(800),
    "newlines": "\n\n\r\n",
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_any_prompt_is_continued(
    finished: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts with characters outside the vocabulary, or longer than the window. The output begins
    with the unchanged prompt, and a continuation follows."""
    prompt = PROMPTS[kind]
    out = write(finished, "--prompt", prompt, "--max-tokens", "20", capsys=capsys)
    assert out.startswith(prompt) and out.endswith("\n")
    assert len(out) > len(prompt) + 1


def test_the_long_prompt_is_read_through_the_rolling_cache(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text beyond the reach of all layers must change nothing: 2 layers of window 8 reach 15
    tokens."""
    end = tiny.english(60, seed=5)[-40:]
    greedy = ["--temperature", "0", "--max-tokens", "20"]
    texts = [
        write(finished, "--prompt", beginning + end, *greedy, capsys=capsys)[len(beginning) :]
        for beginning in ("", tiny.english(900), "zzz" * 500)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_same_seed_same_text(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command must print the same text; another seed another one."""
    hot = ["--prompt", "The ", "--temperature", "1.5"]
    texts = [write(finished, *hot, "--seed", seed, capsys=capsys) for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_several_samples(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that are mixed up: the first sample equals a single one, and the samples differ."""
    options = ["--prompt", "The ", "--temperature", "1", "--max-tokens", "30"]
    single = write(finished, *options, capsys=capsys)
    out = write(finished, *options, "--samples", "3", capsys=capsys)
    texts = [out.split(f"--- sample {n} ---\n")[1].split("--- sample")[0] for n in (1, 2, 3)]
    assert texts[0] == single and len(set(texts)) == 3


def test_prompt_file_and_standard_input(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Three ways to give the same prompt have the same result."""
    path = tmp_path / "prompt.txt"
    path.write_bytes("Über the river".encode())
    greedy = ["--temperature", "0", "--max-tokens", "9"]
    given = write(finished, "--prompt", "Über the river", *greedy, capsys=capsys)
    assert write(finished, "--prompt-file", str(path), *greedy, capsys=capsys) == given
    monkeypatch.setattr(sys, "stdin", io.StringIO("Über the river\n"))
    assert write(finished, *greedy, capsys=capsys) == given


def test_a_checkpoint_and_a_folder_mean_the_same(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RUN may be a run's folder or a checkpoint file."""
    greedy = ["--prompt", "a", "--temperature", "0"]
    folder = write(finished, "--checkpoint", "last", *greedy, capsys=capsys)
    assert folder == write(tiny.last(finished), *greedy, capsys=capsys)


def test_sampling_needs_the_one_file_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A checkpoint file is enough: no text, no cache, no config and no tokenizer beside it."""
    path = tmp_path / tiny.last(finished).name
    path.write_bytes(tiny.last(finished).read_bytes())
    monkeypatch.setenv("BREEZE_CACHE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert write(path, "--prompt", "a", capsys=capsys).startswith("a")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_prompt_of_broken_bytes(finished: Path) -> None:
    """A terminal in Latin-1 sends bytes that are not UTF-8; printing them must not fail."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.sample", str(finished), "--max-tokens", "3", "--prompt",
         b"caf\xe9 \xff"], cwd=tiny.ROOT, capture_output=True, env=os.environ | {"PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith("caf\ufffd \ufffd")


def test_stop_on_the_command_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--stop ends the text before the stop string, in one sample and in several."""
    options = ["--prompt", "The ", "--temperature", "0", "--max-tokens", "40"]
    whole = write(finished, *options, capsys=capsys)[len("The ") : -1]
    stop = whole[10:13]
    cut = whole[: whole.find(stop)]
    assert write(finished, *options, "--stop", stop, capsys=capsys) == f"The {cut}\n"
    several = write(finished, *options, "--stop", stop, "--samples", "2", capsys=capsys)
    assert several == "".join(f"--- sample {n} ---\nThe {cut}\n" for n in (1, 2))


def test_defaults_are_the_configs(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """sample.temperature of the config has an effect, and --temperature overrides it."""
    short = ["train.max_steps=1", "train.warmup_steps=0"]
    assert tiny.start(tmp_path / "cold", text, *short, "sample.temperature=0") == 0
    cold = write(tmp_path / "cold", "--prompt", "a", capsys=capsys)
    assert cold == write(
        tmp_path / "cold", "--prompt", "a", "--temperature", "0", "--seed", "9", capsys=capsys
    )
    assert cold != write(tmp_path / "cold", "--prompt", "a", "--temperature", "1", capsys=capsys)


def test_what_is_written_is_what_the_model_says(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Greedy text equals the slow way: the whole text through the model for each token."""
    import torch

    trained = open_trained(finished)
    ids = [trained.tokenizer.bos_id, *trained.tokenizer.encode("The qu")]
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(trained.model(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in (trained.tokenizer.bos_id, trained.tokenizer.eos_id):
                break
    out = write(finished, "--prompt", "The qu", "--temperature", "0", "--max-tokens", "12",
                capsys=capsys)  # fmt: skip
    assert out == trained.tokenizer.decode(ids) + "\n"


@pytest.mark.parametrize("samples", ["1", "2"])
def test_int8_weights_say_what_they_cost(
    finished: Path, samples: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text must be that of the rounded model, and the losses those of this text."""
    options = ["--prompt", "The ", "--max-tokens", "20", "--samples", samples]
    sample.main([str(finished), *options, "--weights", "int8"])
    out, err = capsys.readouterr()
    found = re.search(
        r"\[int8 weights: loss of this text ([\d.]+) nats per token, ([\d.]+) in fp32 "
        r"\((\d+) tokens\); ([\d.]+) MB of weights read per token, ([\d.]+) in fp32\]",
        err,
    )
    assert found
    texts = [text.split("--- sample")[0] for text in re.split(r"--- sample \d ---\n", out)]
    trained = open_trained(finished)
    written = [text.removeprefix("The ").removesuffix("\n") for text in texts if text]
    cost = rounding_cost(trained, "The ", written)
    assert (found[1], found[2]) == (f"{cost.int8_nats:.4f}", f"{cost.fp32_nats:.4f}")
    assert int(found[3]) == cost.n_tokens > 0
    pieces = continue_text(
        trained.rounded(), ["The "] * int(samples), max_tokens=20, sampling=trained.sampling
    )
    texts = [""] * int(samples)
    for piece in pieces:
        texts[piece.row] += piece.text
    assert written == texts


def test_fp32_weights_say_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second pass over the text costs time that nobody asked for."""
    sample.main([str(finished), "--prompt", "The ", "--max-tokens", "5"])
    assert "int8" not in capsys.readouterr().err


# ------------------------------------------------------------------- how prompts are given


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    """A run with a vocabulary of pieces such as " the"."""
    run = tmp_path_factory.mktemp("pieces") / "run"
    bpe = ["tokenizer.type=bpe", "tokenizer.vocab_size=400", "train.max_steps=40"]
    assert tiny.start(run, text, *bpe) == 0
    return run


GREEDY = ["--temperature", "0", "--max-tokens", "12"]


def test_a_prompt_that_ends_in_a_space(pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the same continuation as the prompt without the space."""
    without = write(pieces, "--prompt", "The old", *GREEDY, capsys=capsys)
    assert without.startswith("The old ")
    assert write(pieces, "--prompt", "The old ", *GREEDY, capsys=capsys) == without


@pytest.mark.parametrize("prompt", ["-Hello", "--samples", "-1", "--prompt"])
def test_a_prompt_that_begins_with_a_dash(
    finished: Path, tmp_path: Path, prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dialogue may begin with a dash, which argparse takes for an option."""
    out = write(finished, "--prompt", prompt, *GREEDY, capsys=capsys)
    assert out.startswith(prompt) and len(out) > len(prompt) + 1
    assert out == write(finished, f"--prompt={prompt}", *GREEDY, capsys=capsys)
    rest = out[len(prompt) :]
    path = tmp_path / "-file"
    path.write_text(prompt)
    assert write(finished, "--prompt-file", str(path), *GREEDY, capsys=capsys) == prompt + rest
    assert write(finished, "--prompt", prompt, *GREEDY, "--stop", "-z", capsys=capsys) == out


def test_an_option_without_its_text(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of one line."""
    assert sample.main([str(finished), "--prompt"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: argument --prompt: expected one argument")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (r"a\\nb", r"a\nb"),
        (r"a\nb\tc", "a\nb\tc"),
        (r"\\n\n\\t\t", "\\n\n\\t\t"),
        (r"C:\dir \d \\ x", r"C:\dir \d \\ x"),
        ("a\nb", "a\nb"),
    ],
)
def test_newlines_in_a_prompt(
    finished: Path, given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    r"""\n and \t become a newline and a tab; every other backslash stays."""
    assert write(finished, "--prompt", given, *GREEDY, capsys=capsys).startswith(meant)


def test_newlines_in_a_stop(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    r"""A shell cannot type a newline easily: `--stop "\n"` means one."""
    hot = ["--prompt", "The", "--temperature", "2", "--max-tokens", "60", "--samples", "20"]
    whole, cut = (
        re.split(r"--- sample \d+ ---\n", write(finished, *hot, *stop, capsys=capsys))[1:]
        for stop in ([], ["--stop", r"\n"])
    )
    assert any("\n" in text[:-1] for text in whole)  # so this test can fail
    assert cut == [text.partition("\n")[0] + "\n" for text in whole]


def piped(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `content` be the standard input, strict about its encoding."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))


def test_a_prompt_file_from_windows(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    r"""Byte order mark and \r\n are removed with one note; the last newline, which every editor
    writes, is removed as well. A file and standard input are read alike."""
    content = b"\xef\xbb\xbfAda\r\nfound the lamp.\r\n"
    expected = write(finished, "--prompt", "Ada\nfound the lamp.", *GREEDY, capsys=capsys)
    path = tmp_path / "prompt.txt"
    path.write_bytes(content)
    assert sample.main([str(finished), "--prompt-file", str(path), *GREEDY]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {path}: the byte order mark is removed; "
                     "2 line ends \\r\\n are read as \\n"]  # fmt: skip
    piped(content, monkeypatch)
    assert write(finished, "--prompt-file", "-", *GREEDY, capsys=capsys) == expected
    path.write_bytes(b"Ada\nfound the lamp.\n")
    assert sample.main([str(finished), "--prompt-file", str(path), *GREEDY]) == 0
    out, err = capsys.readouterr()
    assert out == expected and "note: " not in err


@pytest.mark.parametrize("content", [b"caf\xe9", "Ada".encode("utf-16")])
def test_a_prompt_file_in_another_encoding(
    finished: Path, content: bytes, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An error of one line that names the byte and the remedy."""
    piped(content, monkeypatch)
    assert sample.main([str(finished), "--prompt-file", "-"]) == 2
    place = 3 if content.startswith(b"caf") else 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --prompt-file: standard input is not UTF-8 (byte {place}): save it as UTF-8"
    )


def test_lines_of_standard_input_in_another_encoding(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that is not UTF-8 is replaced; every line is continued."""
    piped(b"\xef\xbb\xbfThe\ncaf\xe9\nold\n", monkeypatch)
    out = write(finished, *GREEDY, capsys=capsys)
    assert [out.startswith("The"), "\ncaf\ufffd" in out, "\nold" in out] == [True] * 3


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_a_prompt_file_may_be_a_pipe(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--prompt-file <(command)` of a shell is no regular file."""
    reading, writing = os.pipe()
    os.write(writing, b"The king\n")
    os.close(writing)
    given = write(finished, "--prompt", "The king", *GREEDY, capsys=capsys)
    assert write(finished, "--prompt-file", f"/dev/fd/{reading}", *GREEDY, capsys=capsys) == given
    os.close(reading)


@pytest.mark.parametrize("name", ["nothing.txt", "."])
def test_a_prompt_file_that_is_not_there(
    finished: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of one line, also for a folder."""
    assert sample.main([str(finished), "--prompt-file", name]) == 2
    assert capsys.readouterr().err == f"error: --prompt-file {name} is not a file: check the name\n"
