"""data/sources/hub.py and hub_rows.py: a dataset of the Hub, unchanged; errors are one line.

The libraries read HF_ENDPOINT when they are imported, which takes seconds. So one process answers
all questions and another trains; both ask hub_server.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import pytest
import tiny

from data.sources.hub import Hub
from errors import UserError

STORIES = "roneneldan/TinyStories"
LINES = '{"n": 1, "text": "one\\r\\n two "}\n{"text": null}\n{"text": ""}\n{"text": "\\u00e4"}\n'
CARD = """---
configs:
- config_name: north
  data_files: north.jsonl
- config_name: south
  data_files: south.jsonl
---
"""
PAIRS = '{"q": "Why? ", "text": "So."}\n{"q": null, "text": "x"}\n{"text": "y"}\n'
QUOTED = json.dumps({"text": 'She said "oh"\nin the café.'})
CARD_WITH_OPTIONS = """---
configs:
- config_name: default
  data_files: a.csv
  names: [text, more]
---
"""
ANSWER = """
import json, pickle, socket, sys
from data.sources.hub import Hub
from errors import UserError

def answer(arguments):
    try:
        source = Hub(**arguments)
        next(source.documents(), None)
        read = [list(source.chunk(n)) for n in range(source.n_chunks)]
        chunks = [[(d.name, d.text) for d in documents] for documents in read]
        prompts = [d.text[:d.prompt_length] for documents in read for d in documents]
        sent = pickle.loads(pickle.dumps(Hub(**arguments)))  # as another process gets it
        alone = [(d.name, d.text) for d in sent.chunk(len(chunks) - 1)]
    except UserError as error:
        return {"error": str(error)}
    properties = {"fingerprint": source.fingerprint(), "bytes": source.chunk_bytes(0)}
    return properties | {"chunks": chunks, "alone": alone, "prompts": prompts}

look_up, hosts = socket.getaddrinfo, set()
socket.getaddrinfo = lambda host, *more, **names: hosts.add(host) or look_up(host, *more, **names)
questions = json.load(sys.stdin)
answers = {name: answer(arguments) for name, arguments in questions.items()}
print(json.dumps(answers | {"hosts": sorted(hosts)}))
"""
TRAIN = """
import os, sys
from pathlib import Path
import hub_server

folder, runs, *words = sys.argv[1:]
with hub_server.serve(Path(folder)) as (os.environ["HF_ENDPOINT"], asked):
    import train
    first = train.main([*words, f"run_dir={runs}/first"])
    files = {line.split("/")[-1] for line in asked if line.startswith("GET /datasets/")}
prepared = train.main([*words, f"run_dir={runs}/prepared"])
print("codes", first, prepared, *sorted(files))
"""
SETTINGS = [
    *(word for word in tiny.SETTINGS if not word.startswith("data.source")),
    "data.split=document", "train.max_steps=2", "train.warmup_steps=1",
]  # fmt: skip


def run(*command: str, cache: Path, endpoint: str, stdin: str = "") -> Any:
    """Run Python at the root of the repository, with its own cache and Hub."""
    own = {"BREEZE_CACHE": str(cache), "HF_HOME": str(cache / "home"), "HF_ENDPOINT": endpoint}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | own
    environment["PYTHONPATH"] = f"{tiny.ROOT}:{Path(__file__).parents[2]}"
    return subprocess.run(
        [sys.executable, *command], cwd=tiny.ROOT, env=environment, input=stdin,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """Return a folder of datasets, and the 40 stories of one of them."""
    folder = tmp_path_factory.mktemp("hub")
    files = {
        f"{STORIES}@v1/train.jsonl": '{"text": "an older text"}\n',
        "own/lines/train.jsonl": LINES,
        "own/pairs/train.jsonl": PAIRS,
        "own/numbers/train.jsonl": '{"text": 3}\n',
        "own/broken/train.jsonl": '{"text": "x"}\n{oops\n{"text": "y"}\n',
        # A number among texts: the library would spell all of them as JSON.
        "own/mixed/a.jsonl": f"{QUOTED}\n" * 20 + '{"text": 5, "when": "2024-01-31"}\n',
        "own/mixed/b.jsonl": '{"text": "2024-01-31", "when": 3}\n{"text": "last"}\n',
        "own/digits/a.csv": "id;text\n1;007\n2;one\n",
        "own/digits/b.csv": "id;text\n3;2024-01-31\n4;NA\n5;\n",
        "own/options/README.md": CARD_WITH_OPTIONS,
        "own/options/a.csv": "x,y\n1,one\n",
        "own/empty/README.md": "nothing",
        "own/regions/README.md": CARD,
        "own/regions/north.jsonl": '{"text": "north"}\n',
        "own/regions/south.jsonl": '{"text": "south"}\n',
        "own/gated/train.jsonl": LINES,
        "own/private/train.jsonl": LINES,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    yield folder, hub_server.make_stories(folder, 40)


@pytest.fixture(scope="module")
def answers(
    texts: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return what `Hub` answers to many questions, and its requests, its messages and its cache."""
    cache = tmp_path_factory.mktemp("cache")
    commit = hub_server.commit_of(texts[0] / f"{STORIES}@v1")
    questions = {
        "streamed": {"path": STORIES},
        "in full": {"path": STORIES, "streaming": False},
        "validation": {"path": STORIES, "split": "validation"},
        "v1": {"path": STORIES, "revision": "v1"},
        "commit": {"path": STORIES, "revision": commit},
        "lines": {"path": "own/lines"},
        "lines in full": {"path": "own/lines", "streaming": False},
        "mixed": {"path": "own/mixed"},
        "mixed in full": {"path": "own/mixed", "streaming": False},
        "digits": {"path": "own/digits"},
        "options": {"path": "own/options", "field": "more"},
        "pairs": {"path": "own/pairs", "prompt_field": "q"},
        "pairs without prompts": {"path": "own/pairs"},
        "pairs of the library": {"path": "own/options", "field": "more", "prompt_field": "text"},
        "strict": {"path": "own/mixed", "strict": True},
        "south": {"path": "own/regions", "config": "south"},
        "no dataset": {"path": "own/nothing"},
        "no id": {"path": "https://hf.co/datasets/own/lines"},
        "no revision": {"path": STORIES, "revision": "v9"},
        "no split": {"path": STORIES, "split": "tset"},
        "no split in full": {"path": STORIES, "split": "tset", "streaming": False},
        "no config": {"path": "own/regions", "config": "west"},
        "which config": {"path": "own/regions"},
        "no field": {"path": STORIES, "field": "story"},
        "no field in lines": {"path": "own/lines", "field": "story"},
        "no prompts": {"path": STORIES, "prompt_field": "q"},
        "no prompts in lines": {"path": "own/lines", "prompt_field": "q"},
        "no text": {"path": "own/numbers"},
        "broken": {"path": "own/broken"},
        "broken in full": {"path": "own/broken", "streaming": False},
        "empty": {"path": "own/empty"},
        "gated": {"path": "own/gated"},
        "private": {"path": "own/private"},
        "down": {"path": "own/down"},
    }
    with hub_server.serve(texts[0]) as (address, asked):
        done = run("-c", ANSWER, cache=cache, endpoint=address, stdin=json.dumps(questions))
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers | {"asked": asked, "stderr": done.stderr, "cache": cache, "v1's": commit}


def test_streaming_and_in_full_give_the_same(
    texts: tuple[Path, list[str]], answers: dict[str, Any]
) -> None:
    """Each story once, in the order of the files; a chunk is a file, or ten thousand rows."""
    streamed, full = answers["streamed"]["chunks"], answers["in full"]["chunks"]
    assert [len(chunk) for chunk in streamed] == [10] * 4 and [len(chunk) for chunk in full] == [40]
    assert [text for chunk in streamed for _, text in chunk] == texts[1]
    assert [text for chunk in full for _, text in chunk] == texts[1]
    assert [streamed[3][9][0], full[0][39][0]] == ["3.9", "39"]
    assert answers["streamed"]["bytes"] > 0 and answers["in full"]["bytes"] > 1000


@pytest.mark.parametrize("name", ["streamed", "in full", "validation", "lines", "south"])
def test_a_chunk_can_be_read_alone(answers: dict[str, Any], name: str) -> None:
    """By another process, which gets the source and the number of a chunk."""
    assert answers[name]["alone"] == answers[name]["chunks"][-1]


def test_fingerprints(answers: dict[str, Any]) -> None:
    """Other documents or other chunks have another fingerprint; a revision counts as its commit."""
    names = ("streamed", "in full", "validation", "v1", "lines", "lines in full", "south")
    assert len({answers[name]["fingerprint"] for name in names}) == len(names)
    assert answers["commit"]["fingerprint"] == answers["v1"]["fingerprint"]


def test_splits_revisions_configs_lines(answers: dict[str, Any]) -> None:
    assert [len(chunk) for chunk in answers["validation"]["chunks"]] == [4]
    assert answers["v1"]["chunks"] == answers["commit"]["chunks"] == [[["0.0", "an older text"]]]
    assert answers["south"]["chunks"] == [[["0.0", "south"]]]
    assert answers["lines"]["chunks"] == [[["0.0", "one\r\n two "], ["0.3", "ä"]]]
    assert answers["lines in full"]["chunks"] == [[["0", "one\r\n two "], ["3", "ä"]]]


def test_rows_of_json_and_csv_are_read_as_they_stand(answers: dict[str, Any]) -> None:
    """`datasets` guesses a type for a column and converts the rows to it."""
    text = json.loads(QUOTED)["text"]
    a, b = ([f"0.{n}", text] for n in range(20)), [["1.0", "2024-01-31"], ["1.1", "last"]]
    assert answers["mixed"]["chunks"] == [list(a), b]
    assert answers["mixed in full"]["chunks"] == [
        [*([str(n), text] for n in range(20)), ["21", "2024-01-31"], ["22", "last"]]
    ]
    assert answers["digits"]["chunks"] == [
        [["0.0", "007"], ["0.1", "one"]], [["1.0", "2024-01-31"], ["1.1", "NA"]]
    ]  # fmt: skip
    assert answers["broken"]["chunks"] == [[["0.0", "x"], ["0.2", "y"]]]
    assert answers["options"]["chunks"] == [[["0.0", "y"], ["0.1", "one"]]]  # by the library


def test_rows_with_prompts(answers: dict[str, Any]) -> None:
    """The prompt's column could be dropped, or read without being marked as a prompt."""
    assert answers["pairs"]["chunks"] == [[["0.0", "Why? So."], ["0.1", "x"]]]
    assert answers["pairs"]["prompts"] == ["Why? ", ""]
    assert answers["pairs without prompts"]["prompts"] == ["", "", ""]
    assert answers["pairs"]["fingerprint"] != answers["pairs without prompts"]["fingerprint"]
    assert answers["pairs of the library"]["chunks"] == [[["0.0", "xy"], ["0.1", "1one"]]]
    assert answers["pairs of the library"]["prompts"] == ["x", "1"]
    for name in ("no prompts", "no prompts in lines"):
        assert "has no column q, but " in answers[name]["error"]


def test_rows_without_text_are_reported_once(answers: dict[str, Any]) -> None:
    """By the first pass over a chunk, not again by the second. Four sources read this dataset: two
    questions, and a copy for each."""
    notes = [line for line in answers["stderr"].splitlines() if line.startswith("note: own/broken")]
    assert notes == 4 * [
        "note: own/broken, chunk 0: rows are skipped (data.strict=true refuses them): not JSON "
        "(1 of 3 rows, first: train.jsonl, line 2)"
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no dataset", "the Hub has no dataset own/nothing, or it is private: check the spelling"),
        ("no id", "https://hf.co/datasets/own/lines is not the id of a dataset: give OWNER/NAME"),
        ("no revision", f"{STORIES} has no branch, tag or commit v9: check the spelling"),
        ("no split", f"hub_split=tset: {STORIES} has train, validation"),
        ("no split in full", f"hub_split=tset: {STORIES} has train, validation"),
        ("no config", "hub_config=west: own/regions has north, south"),
        ("which config", "hub_config=null: own/regions has north, south"),
        ("no field", f"{STORIES} has no column story, but text: name the column of the text"),
        (
            "no field in lines",
            "own/lines has no column story, but n, text: name the column of the text",
        ),
        (
            "no text",
            "own/numbers has no text: a number in column text (1 of 1 rows, first: train.jsonl",
        ),
        (
            "strict",
            "own/mixed, a.jsonl, line 21: a number in column text; data.strict=false skips such",
        ),
        ("empty", "own/empty cannot be read: "),
        ("gated", "own/gated is gated: ask for access on its page of the Hub, then set"),
        ("down", "the Hub at http://127.0.0.1:"),
        ("private", "the Hub has no dataset own/private, or it is private"),
    ],
)
def test_refused(answers: dict[str, Any], name: str, message: str) -> None:
    """One line with what is wrong and what would be right."""
    assert answers[name].get("error", "was read").startswith(message)
    assert "\n" not in answers[name]["error"]


def test_requests_messages_and_files(answers: dict[str, Any]) -> None:
    """Files are requested by commit and stored in one folder only, and no library prints."""
    files = [line for line in answers["asked"] if "/resolve/" in line]
    assert files and not any("/resolve/main/" in line for line in files)
    assert sum("own/down" in line for line in answers["asked"]) == 1  # no retries
    assert {path.name for path in answers["cache"].iterdir()} == {"hub"}
    words = {line.split()[0] for line in answers["stderr"].splitlines()}
    assert words == {"downloading", "note:"}
    assert not any("telemetry" in line for line in answers["asked"])
    assert answers["hosts"] == ["127.0.0.1"]  # the Hub, and nobody to whom its use is reported


def test_no_path() -> None:
    with pytest.raises(UserError, match=r"^path is missing: give the id of a dataset"):
        Hub(None)


@pytest.mark.slow
def test_trains_and_needs_no_hub_the_second_time(
    texts: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Training, with two processes that tokenize; then without a network, from the same shards."""
    words = ["configs/tinystories.yaml", *SETTINGS, "data.processes=2"]
    done = run("-c", TRAIN, str(texts[0]), str(tmp_path), *words, cache=tmp_path, endpoint="")
    files = [f"train-0000{number}-of-00004.parquet" for number in range(4)]
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1:] == [f"codes 0 0 README.md {' '.join(files)}"]
    first, prepared = (tiny.measured(tmp_path / name) for name in ("first", "prepared"))
    assert first == prepared and first[-1]["step"] == 2
    notes = [line for line in done.stderr.splitlines() if "is read at the commit seen last" in line]
    assert len(notes) == 1 and notes[0].startswith("note: the Hub at http://127.0.0.1:")
    assert done.stderr.count("tokenizing into") == 1


def test_without_a_network(tmp_path: Path, cache: Path) -> None:
    """One line within seconds, instead of minutes of retries and pages of traceback."""
    words = ["train.py", "configs/tinystories.yaml", f"run_dir={tmp_path / 'run'}"]
    own = tiny.own_cache(tmp_path, cache)
    done = run(*words, cache=own, endpoint="http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: the Hub at http://127.0.0.1:9 cannot be reached ([Errno 111] Connection refused): "
        "check the network and HF_ENDPOINT, or use data.source=stories, or use your own text: "
        "data.source=files data.path=FILE"
    )
    assert "Traceback" not in done.stderr
