"""scripts/sample.py: any prompt, any length, the same text for the same seed."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from inference.text import TextStream
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
    """A prompt that the vocabulary lacks, or that is longer than the window: it stands unchanged
    at the beginning of what is written, and something follows."""
    prompt = PROMPTS[kind]
    out = write(finished, "--prompt", prompt, "--max-tokens", "20", capsys=capsys)
    assert out.startswith(prompt) and out.endswith("\n")
    assert len(out) > len(prompt) + 1


def test_the_long_prompt_is_read_through_the_rolling_cache(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is beyond the reach of all layers must not count, and what is within must: 2 layers of
    window 8 reach 15 tokens."""
    end = tiny.english(60, seed=5)[-40:]
    greedy = ["--temperature", "0", "--max-tokens", "20"]
    texts = [
        write(finished, "--prompt", beginning + end, *greedy, capsys=capsys)[len(beginning) :]
        for beginning in ("", tiny.english(900), "zzz" * 500)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_same_seed_same_text(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody could show what they saw."""
    hot = ["--prompt", "The ", "--temperature", "1.5"]
    texts = [write(finished, *hot, "--seed", seed, capsys=capsys) for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_several_samples(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that are mixed up: the first must be what it is alone, and each its own."""
    options = ["--prompt", "The ", "--temperature", "1", "--max-tokens", "30"]
    alone = write(finished, *options, capsys=capsys)
    out = write(finished, *options, "--samples", "3", capsys=capsys)
    parts = [out.split(f"--- sample {n} ---\n")[1].split("--- sample")[0] for n in (1, 2, 3)]
    assert parts[0] == alone and len(set(parts)) == 3


def test_prompt_file_and_standard_input(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Three ways to give the same prompt."""
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
    """RUN is either."""
    greedy = ["--prompt", "a", "--temperature", "0"]
    assert write(finished, *greedy, capsys=capsys) == write(
        tiny.last(finished), *greedy, capsys=capsys
    )


def test_sampling_needs_the_one_file_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A model that is sent to a friend: no text, no cache, no config, no tokenizer beside it."""
    path = tmp_path / tiny.last(finished).name
    path.write_bytes(tiny.last(finished).read_bytes())
    monkeypatch.setenv("BREEZE_CACHE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert write(path, "--prompt", "a", capsys=capsys).startswith("a")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_prompt_of_broken_bytes(finished: Path) -> None:
    """A terminal in Latin-1 sends bytes that are no UTF-8; printing them back is a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.sample", str(finished), "--max-tokens", "3", "--prompt",
         b"caf\xe9 \xff"], cwd=tiny.ROOT, capture_output=True, env=os.environ | {"PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith("caf\ufffd \ufffd")


# ------------------------------------------------------------------- stop strings


class Letters:
    """A stream whose token n is the n-th of these pieces."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def push(self, token: int) -> str:
        return self.pieces[token]

    def flush(self) -> str:
        return ""


def streamed(stops: list[str], *pieces: str) -> tuple[list[str], str]:
    """Push all pieces; returns what came out at each step, and all of it."""
    stream = TextStream(Letters(*pieces), stops)
    out = []
    for token in range(len(pieces)):
        if not stream.stopped:
            out.append(stream.push(token))
    out.append(stream.flush())
    assert "".join(out) == stream.text
    return out, stream.text


def test_a_stop_string_that_is_split_over_tokens() -> None:
    """Its first half would already be on the screen."""
    assert streamed(["\nROMEO"], "Ay me\n", "RO", "MEO:", " no") == (["Ay me", "", "", ""], "Ay me")


def test_what_only_seemed_to_stop_comes_out() -> None:
    """Text that is held back too long, or lost at the end."""
    assert streamed(["\nROMEO"], "a\nRO", "SE", "\n") == (["a", "\nROSE", "", "\n"], "a\nROSE\n")


def test_the_earliest_of_several_stops_wins() -> None:
    """Not the one given first."""
    assert streamed(["later", "now"], "go now or later")[1] == "go "


def test_stops_against_a_plain_search() -> None:
    """The text ends before the stop string that is complete first, however the tokens fall."""
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choice("ab") for _ in range(30))
        stops = ["".join(draw.choice("ab") for _ in range(draw.randint(1, 6))) for _ in range(2)]
        cuts = sorted(draw.sample(range(1, 30), 8))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        assert streamed(stops, *pieces)[1] == text[: min(ends, default=(30, 30))[1]]


def test_stop_on_the_command_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--stop ends the text before it, in one sample and in several."""
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
    """sample.temperature of the config has an effect, and the command line wins over it."""
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
    """Greedy text, computed the slow way: the whole text through the model for each token."""
    import torch

    opened = open_trained(finished)
    ids = [opened.tokenizer.bos_id, *opened.tokenizer.encode("The qu")]
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(opened.model(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in (opened.tokenizer.bos_id, opened.tokenizer.eos_id):
                break
    out = write(finished, "--prompt", "The qu", "--temperature", "0", "--max-tokens", "12",
                capsys=capsys)  # fmt: skip
    assert out == opened.tokenizer.decode(ids) + "\n"
