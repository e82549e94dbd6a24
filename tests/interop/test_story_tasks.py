"""Tasks of the story world for lm-eval: a story decides each answer, and nothing else does."""

import hashlib
import json
import re
from itertools import islice
from pathlib import Path

import pytest
import yaml

from data.stories.judge import judge
from interop import story_tasks
from interop.story_tasks import DISTANCES, Document, recall_documents, task_names, write_tasks


@pytest.fixture(scope="module")
def questions() -> dict[int, list[Document]]:
    """Some questions of each distance."""
    return recall_documents(2)


def test_a_wrong_word_contradicts_the_story(questions: dict[int, list[Document]]) -> None:
    """A question could have two right answers, or none. The judge reads the text alone: it knows
    neither the world nor the probes."""
    texts = [story.text for story in islice(story_tasks.unseen_stories(), 200)]
    for question in (question for asked in questions.values() for question in asked):
        context, right = question["context"], question["choices"][question["right"]]
        (whole,) = (text for text in texts if text.startswith(context + right))
        rest = whole[len(context + right) :]
        assert not judge(whole).contradictions
        for wrong in {*question["choices"][::6]} - {right}:
            assert judge(context + wrong + rest).contradictions, (context, wrong)


def test_the_fact_is_as_far_back_as_the_task_says(questions: dict[int, list[Document]]) -> None:
    """A question in the wrong task would make a window look wider or narrower than it is."""
    assert list(questions) == list(DISTANCES)
    for nearest, (farthest, asked) in zip((0, *DISTANCES), questions.items(), strict=False):
        assert len(asked) == 2
        for question in asked:
            right = question["choices"][question["right"]].strip().lower()
            words = re.findall(r"\S+", question["context"].lower())
            named = [n for n, word in enumerate(words) if right in re.findall(r"[\w-]+", word)]
            assert len(words) - named[-1] == question["words"]
            assert nearest < question["words"] <= farthest


def test_choices_are_different_words(questions: dict[int, list[Document]]) -> None:
    """If one choice began another, the shorter one would be likelier whatever the story says."""
    for question in (question for asked in questions.values() for question in asked):
        choices = question["choices"]
        assert len(choices) >= 3 and all(choice.startswith(" ") for choice in choices)
        assert not any(a != b and a.startswith(b) for a in choices for b in choices)
        assert len(set(choices)) == len(choices)


def test_questions_change_only_with_the_version(questions: dict[int, list[Document]]) -> None:
    """Scores of two versions of Breeze would be compared, and be of different questions."""
    assert (story_tasks.stories.VERSION, story_tasks.VERSION) == (2, 1)
    text = json.dumps(questions).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == "1de90b35acbfa380"


def test_files_are_written_once_and_found_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that was moved would send lm-eval to the old place; stories would be told again."""
    monkeypatch.setattr(story_tasks, "QUESTIONS", 1)
    monkeypatch.setattr(story_tasks, "STORIES", 1)
    monkeypatch.setattr(story_tasks, "recall_documents", lambda: recall_documents(1))
    first = write_tasks(tmp_path / "a")
    monkeypatch.setattr(story_tasks, "recall_documents", None)  # a second call would fail
    moved = write_tasks(first.rename(tmp_path / "b"))
    assert sorted(path.stem for path in moved.glob("*.yaml")) == sorted(task_names())
    for path in moved.glob("breeze_recall_*.yaml"):
        data = Path(yaml.safe_load(path.read_text())["dataset_kwargs"]["data_files"]["test"])
        assert data.parent == moved
        assert len(data.read_text().splitlines()) == 1
