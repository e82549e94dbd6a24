"""Tasks of lm-eval made of the story world. They need no network and no run's settings.

    breeze_recall        a group of multiple-choice tasks: a story up to a word that an earlier fact
                         decides, and all words of that kind. breeze_recall_0032 asks for facts at
                         most 32 words back, breeze_recall_0064 for those 33 to 64 words back, ...
    breeze_perplexity    perplexity of whole stories, per word and per byte

All stories are of the split `test`: their combinations of hero, thing and plot are in no training
text. Distances are words and not tokens, so that the questions are the same for every tokenizer.
The files are lm-eval's own format: `lm-eval --include_path FOLDER` asks any other model as well.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import yaml

from data import stories
from data.stories import Probe, Story
from data.stories.world import split_of
from storage import atomic_write, cache_folder

# Of the questions, raised with every change of them. lm-eval prints the stories' version before it.
VERSION = 1
SEED = 0  # of the world that data.source=stories reads
FIRST = 10_000_000  # the first story: no run reads so many
DISTANCES = (32, 64, 128, 256, 512, 1024)  # words: the farthest fact of each task
QUESTIONS = 200  # in each task of breeze_recall
STORIES = 100  # of breeze_perplexity
RECALL, PERPLEXITY = "breeze_recall", "breeze_perplexity"

Document = dict[str, Any]


def task_names() -> list[str]:
    """Return the names of the tasks, and of the group of those of recall."""
    return [PERPLEXITY, RECALL, *map(_recall_task, DISTANCES)]


def _recall_task(distance: int) -> str:
    return f"{RECALL}_{distance:04}"  # lm-eval's table is in the order of the names


def unseen_stories() -> Iterator[Story]:
    """Yield stories that no run has read, without end, at the world's own distances."""
    return (stories.story(SEED, index) for index in count(FIRST) if split_of(index) == "test")


def recall_documents(n_questions: int = QUESTIONS) -> dict[int, list[Document]]:
    """Return the questions of each distance: a text, the words to choose from, the right one.

    A story gives at most one question to a distance, so that questions are independent.
    """
    asked: dict[int, list[Document]] = {distance: [] for distance in DISTANCES}
    for story in unseen_stories():
        waiting = {distance for distance in DISTANCES if len(asked[distance]) < n_questions}
        if not waiting:
            break
        for probe in story.probes:
            words = distance_in_words(story.text, probe)
            place = bisect_left(DISTANCES, words)
            if place < len(DISTANCES) and DISTANCES[place] in waiting:
                waiting.remove(DISTANCES[place])
                asked[DISTANCES[place]].append(_question(story.text, probe, words))
    return asked


def distance_in_words(text: str, probe: Probe) -> int:
    """Return the number of words from the last mention of a fact to its use: 1 for the next."""
    return len(text[probe.fact[0] : probe.use[0]].split())


def _question(text: str, probe: Probe, words: int) -> Document:
    """Return a question. The space before the word belongs to the choices, as in most tasks."""
    before = text[: probe.use[0]]
    context = before.rstrip(" ")
    choices = sorted((probe.right, *probe.wrong))
    return {
        "context": context,
        "choices": [before[len(context) :] + word for word in choices],
        "right": choices.index(probe.right),
        "kind": probe.kind,
        "words": words,
    }


def perplexity_documents() -> list[Document]:
    """Return whole stories."""
    return [{"text": story.text} for story in islice(unseen_stories(), STORIES)]


# ---------------------------------------------------------------------------- files


def write_tasks(folder: Path | None = None) -> Path:
    """Write the tasks to a folder, that of the cache if None, and return it.

    Stories that are there already are not generated again. The task files name them by their full
    path, so these are written each time.
    """
    version = f"{stories.VERSION}.{VERSION}"
    if folder is None:
        folder = cache_folder() / f"lm-eval-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in task_names() if name != RECALL]
    if not all(_data(folder, name).is_file() for name in names):
        for distance, documents in recall_documents().items():
            _write_documents(_data(folder, _recall_task(distance)), documents)
        _write_documents(_data(folder, PERPLEXITY), perplexity_documents())
    for name in task_names():
        atomic_write(folder / f"{name}.yaml", yaml.safe_dump(_task(folder, name, version)).encode())
    return folder.absolute()


def _data(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _write_documents(path: Path, documents: Iterable[Document]) -> None:
    atomic_write(path, (json.dumps(document).encode() + b"\n" for document in documents))


def _task(folder: Path, name: str, version: str) -> Document:
    """Return the settings of a task, or of the group, with lm-eval's names."""
    metadata = {"version": float(version)}
    if name == RECALL:
        return _GROUP | {"metadata": metadata}
    data = {
        "data_files": {"test": str(_data(folder, name).absolute())},
        "cache_dir": str(folder.absolute() / "tables"),
    }
    kind = _PERPLEXITY if name == PERPLEXITY else _RECALL
    return kind | {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": data,
        "test_split": "test",
        "metadata": metadata,
    }


def _metric(name: str, aggregation: str, higher_is_better: bool = False) -> Document:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


_GROUP: Document = {
    "group": RECALL,
    "task": [_recall_task(distance) for distance in DISTANCES],
    "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],  # by questions
}
_RECALL: Document = {
    "output_type": "multiple_choice",
    "fewshot_split": "test",  # named, so that lm-eval leaves out the question itself
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "right",
    "target_delimiter": "",
    "metric_list": [_metric("acc", "mean", higher_is_better=True)],
}
_PERPLEXITY: Document = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "num_fewshot": 0,
    "metric_list": [
        _metric("word_perplexity", "weighted_perplexity"),
        _metric("byte_perplexity", "weighted_perplexity"),
        _metric("bits_per_byte", "bits_per_byte"),
    ],
}
