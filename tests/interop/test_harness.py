"""lm-eval with a trained model: its requests, its tasks, its table, without a network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from exported import random_model, save_random_run
from json_models import llama_sentencepiece

from data.json_tokenizer import JsonTokenizer, mark_specials
from errors import UserError
from inference.text import continue_text
from inference.trained import TrainedModel, open_trained
from interop import story_tasks
from interop.tokenizer_json import tokenizer_json
from model import Sampling

pytestmark = pytest.mark.slow
pytest.importorskip("lm_eval")

TEXT = tiny.english(900, seed=5).strip()  # a token a character: more than 100 windows
CONTEXT = TEXT[:400].strip()


@pytest.fixture(scope="module")
def random_run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with random weights: window 8, characters."""
    return save_random_run(finished, tmp_path_factory.mktemp("harness") / "run")


@pytest.fixture(scope="module")
def trained(random_run: Path) -> TrainedModel:
    return open_trained(random_run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks of the story world, with few documents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story_tasks, "STORIES", 3)
        few = story_tasks.recall_documents(4)
        patch.setattr(story_tasks, "recall_documents", lambda: few)
        return story_tasks.write_tasks(tmp_path_factory.mktemp("tasks"))


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, number) for number, pair in enumerate(arguments)]  # type: ignore[arg-type]


def log_probabilities(trained: TrainedModel, tokens: list[int]) -> torch.Tensor:
    """Return (T - 1, V): those of one forward pass without a cache."""
    with torch.no_grad():
        return trained.model(torch.tensor([tokens]))[0, :-1].double().log_softmax(dim=-1)


def test_likelihoods_of_many_requests(trained: TrainedModel) -> None:
    """Grouped by their context, answers could come back in the wrong order."""
    from interop.harness import HarnessModel

    asked = [(CONTEXT, " the"), ("", "a b"), (CONTEXT, " a river"), (CONTEXT[:-1], "x"), ("", "b")]
    found = HarnessModel(trained).loglikelihood(requests("loglikelihood", *asked))
    for (context, continuation), (nats, is_greedy) in zip(asked, found, strict=True):
        tokens = trained.tokenizer.encode_prompt(context + continuation)
        n = len(continuation)
        rows = log_probabilities(trained, tokens)[-n:]
        chosen = torch.tensor(tokens[-n:])
        assert nats == pytest.approx(rows.gather(1, chosen[:, None]).sum().item(), rel=1e-5)
        assert is_greedy == (rows.argmax(dim=1).tolist() == chosen.tolist())


def test_transformers_gives_the_same_likelihoods(trained: TrainedModel, tmp_path: Path) -> None:
    """lm-eval's own model class, around the exported model, scores the same tokens."""
    from lm_eval.models.huggingface import HFLM

    from interop.export import export_huggingface
    from interop.harness import HarnessModel

    export_huggingface(trained, tmp_path / "exported")
    folder = str(tmp_path / "exported")
    peer = HFLM(pretrained=folder, device="cpu", dtype="float32", max_length=2000)
    ours = HarnessModel(trained)
    asked = requests("loglikelihood", (CONTEXT, " the"), ("The old", " king"), (TEXT, " and so"))
    for one, other in zip(ours.loglikelihood(asked), peer.loglikelihood(asked), strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-4) and one[1] == other[1]
    # Otherwise it reads two BOS here, and predicts the second.
    peer = HFLM(pretrained=folder, device="cpu", dtype="float32", max_length=2000,
                add_bos_token=False)  # fmt: skip
    asked = requests("loglikelihood_rolling", (TEXT,), ("a b",))
    assert ours.loglikelihood_rolling(asked) == pytest.approx(
        peer.loglikelihood_rolling(asked), rel=1e-4
    )


def test_a_rolling_text_begins_as_in_training() -> None:
    """Without the space that a tokenizer of Llama 2's kind puts in front of a text, its first word
    would be another token than any that the model saw after BOS."""
    from interop.harness import HarnessModel

    content = tokenizer_json(llama_sentencepiece()).encode()
    tokenizer = JsonTokenizer(mark_specials(content, "<s>", "</s>"))
    tokens = tokenizer.encode_document(TEXT)[:-1]  # without EOS
    assert tokens != [tokenizer.bos_id, *tokenizer.encode(TEXT)]
    trained: Any = SimpleNamespace(
        model=random_model(vocab_size=tokenizer.vocab_size, sliding_window=8), tokenizer=tokenizer
    )
    [nats] = HarnessModel(trained).loglikelihood_rolling(requests("loglikelihood_rolling", (TEXT,)))
    chosen = log_probabilities(trained, tokens).gather(1, torch.tensor(tokens[1:])[:, None])
    assert nats == pytest.approx(chosen.sum().item(), rel=1e-5)


def test_generation_is_that_of_continue_text(trained: TrainedModel) -> None:
    """A stop string, the number of tokens or greedy decoding could be lost on the way."""
    from interop.harness import HarnessModel

    greedy = "".join(
        piece.text
        for piece in continue_text(
            trained, [CONTEXT], max_tokens=20, sampling=Sampling(temperature=0)
        )
    )
    stop = greedy[7:9]
    draws = {"until": [], "max_gen_toks": 20, "do_sample": True}
    asked = [
        (CONTEXT, {"until": [], "max_gen_toks": 20}),
        (CONTEXT, {"until": [stop], "max_gen_toks": 20, "temperature": 0.0}),
        (CONTEXT, {"until": stop, "max_gen_toks": 20, "do_sample": False, "temperature": 1.0}),
        (CONTEXT, draws),
        (CONTEXT, draws),
    ]
    model = HarnessModel(trained)
    found = model.generate_until(requests("generate_until", *asked))
    assert found[0] == greedy
    assert found[1] == found[2] == greedy[: greedy.index(stop)]
    assert len(set(found)) == 4  # the draws differ from one another
    assert model.generate_until(requests("generate_until", *asked)) == found


def test_what_a_task_may_set_for_generation() -> None:
    """A setting that Breeze lacks would be dropped in silence."""
    from interop.harness import read_generation

    assert read_generation({"until": ["\n"]}) == (256, Sampling(temperature=0), ["\n"])
    settings = {"until": "x", "do_sample": True, "top_p": 0.9, "top_k": 0, "num_beams": 1}
    assert read_generation(settings) == (256, Sampling(top_p=0.9), ["x"])
    with pytest.raises(UserError, match=r"num_beams=4.*leave the task out"):
        read_generation({"until": [], "num_beams": 4})


def test_two_runs_of_the_tasks_are_equal(trained: TrainedModel, folder: Path) -> None:
    """The second model would be asked other questions, or get the first one's answers."""
    from interop.harness import load_tasks, run_tasks, tables

    tasks = load_tasks(["breeze_recall", "breeze_perp*"], [folder], num_fewshot=2)
    first, second = run_tasks(trained, tasks, 3), run_tasks(trained, tasks, 3)
    assert first["results"] == second["results"]
    assert first["n-samples"]["breeze_recall_0064"] == {"original": 4, "effective": 3}
    in_the_table = re.findall(r"breeze_recall_\d+", tables(first))
    assert in_the_table == story_tasks.task_names()[2:]  # from near to far
    for name in story_tasks.task_names()[2:]:
        for instance in tasks["tasks"][name].instances:
            asked = instance.args[0]
            assert asked.endswith(instance.doc["context"])
            assert asked.count(instance.doc["context"]) == 1  # it is no example of itself


def test_names_of_tasks(folder: Path) -> None:
    """An unknown name, or too many examples, would end in a traceback of lm-eval."""
    from interop.harness import load_tasks

    with pytest.raises(UserError, match=r"breeze_recal is unknown: did you mean breeze_recall"):
        load_tasks(["breeze_recal"], [folder])
    with pytest.raises(UserError, match=r"num_fewshot is 4: task breeze_recall_0032 has 3 other"):
        load_tasks(["breeze_recall_0032"], [folder], num_fewshot=4)
    assert list(load_tasks(["*_0064"], [folder])["tasks"]) == ["breeze_recall_0064"]


WITHOUT_NETWORK = """
import socket, sys
def connect(*_): raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = connect
from scripts.lm_eval import main
sys.exit(main())
"""


def test_the_command_needs_no_network(random_run: Path, tmp_path: Path, folder: Path) -> None:
    """lm-eval, datasets or the Hub's library could ask a server for what is here. A task of the
    user's own, which generates text, is asked as well."""
    (tmp_path / "own.jsonl").write_text('{"q": "The old king", "a": "-"}\n' * 2)
    own = {
        "task": "own", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "own.jsonl")},
                           "cache_dir": str(tmp_path / "tables")},
        "output_type": "generate_until", "doc_to_text": "q", "doc_to_target": "a",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 5},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    out = tmp_path / "out.json"
    words = [str(random_run), "--tasks", "breeze_recall_0032,own", "--include_path", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, *words, "--limit", "2", "--json", str(out)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
        env=os.environ | {"HF_HOME": str(tmp_path / "hub")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "|breeze_recall_0032|" in done.stdout and "exact_match" in done.stdout
    assert not (tmp_path / "hub" / "datasets").exists()  # nothing beside the cache of Breeze
    (result,) = json.loads(out.read_text()).values()
    assert result["limit"] == 2 and "own" in result["results"]
