"""lm-eval (the language model evaluation harness) with a trained model: its tasks, its table.

This file imports lm-eval, which takes seconds; import it where it is used. Without lm-eval the
import raises `UserError`.
"""

import logging
import random
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from errors import UserError
from inference.text import continue_text
from inference.trained import TrainedModel
from interop.likelihood import LikelihoodReader, split_tokens
from model.sampling import Sampling

try:
    from lm_eval import evaluator
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table
except ImportError:
    raise UserError('this needs lm-eval: pip install -e ".[eval]" installs it') from None

# What a task may set for generation, beside `until` and `max_gen_toks`.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
FEWSHOT_SEED = 1234  # lm-eval's own default

logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports each try of a download


class HarnessModel(LM):  # type: ignore[misc]
    """A trained model that answers lm-eval's requests. A request's `args` are described there.

    No text is cut: with windows, memory does not depend on its length.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.trained = trained

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return log P(continuation | context), and whether greedy decoding would write it.

        Requests with the same context are answered together: the context is read once.
        """
        grouped: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        for number, request in enumerate(requests):
            tokens, n_context = split_tokens(self.trained.tokenizer, *request.args)
            group = grouped.setdefault(tuple(tokens[:n_context]), [])
            group.append((number, tokens[n_context:]))
        return self._answer(len(requests), grouped)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return log P(text): each token after the BOS and all tokens that its windows show it."""
        tokenizer = self.trained.tokenizer
        texts = [tokenizer.encode_prompt(*request.args) for request in requests]
        reader = LikelihoodReader(self.trained, longest=max(map(len, texts), default=1))
        return [
            nats
            for text in tqdm(texts, desc="texts", leave=False, disable=None)
            for nats, _ in reader.score(text[:1], [text[1:]])
        ]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the text that continues each context, up to a stop string, without it.

        Raises `UserError`, before any text is generated, if a task asks for what cannot be done.
        """
        read = [(request.args[0], *read_generation(request.args[1])) for request in requests]
        texts = []
        for seed, job in enumerate(tqdm(read, desc="generations", leave=False, disable=None)):
            context, max_tokens, sampling, stops = job
            pieces = continue_text(
                self.trained, [context], max_tokens=max_tokens, sampling=sampling, stops=stops,
                seed=seed,  # a task may ask for several draws of one text
            )  # fmt: skip
            texts.append("".join(piece.text for piece in pieces))
        return texts

    def _answer(
        self, n_requests: int, grouped: dict[tuple[int, ...], list[tuple[int, list[int]]]]
    ) -> list[tuple[float, bool]]:
        """Score the continuations, each with the number of its request, of all contexts."""
        answers = [(0.0, True)] * n_requests
        longest = longest_choice = 0
        for context, choices in grouped.items():
            most = max(len(tokens) for _, tokens in choices)
            longest = max(longest, len(context) + most)
            if len(choices) > 1:
                longest_choice = max(longest_choice, most)
        reader = LikelihoodReader(self.trained, longest, longest_choice)
        with tqdm(total=n_requests, desc="continuations", leave=False, disable=None) as bar:
            for context, choices in grouped.items():
                numbers, continuations = zip(*choices, strict=True)
                scores = reader.score(context, continuations)
                for number, score in zip(numbers, scores, strict=True):
                    answers[number] = score
                bar.update(len(choices))
        return answers


def read_generation(settings: dict[str, Any]) -> tuple[int, Sampling, list[str]]:
    """Return the most tokens, the sampling and the stop strings of a task's settings.

    Raises `UserError` for a setting that Breeze lacks, such as beam search.
    """
    read = dict(normalize_gen_kwargs(settings))
    max_tokens, stops, draws = (read.pop(name) for name in ("max_gen_toks", "until", "do_sample"))
    if read.get("num_beams") == 1:
        del read["num_beams"]
    if read.keys() - set(SAMPLING):
        name = min(read.keys() - set(SAMPLING))
        raise UserError(
            f"the task sets {name}={read[name]} for generation, which Breeze lacks; it has "
            f"{', '.join(SAMPLING)}, do_sample, max_gen_toks, until: leave the task out"
        )
    if not draws:
        read["temperature"] = 0.0
    read["top_k"] = read.get("top_k") or None  # 0 means all tokens
    return max_tokens, Sampling(**read), stops


# ---------------------------------------------------------------------------- tasks


def load_tasks(
    names: Sequence[str], folders: Sequence[Path], num_fewshot: int | None = None
) -> Any:
    """Load tasks and groups by name (`*` and `?` stand for characters), those in `folders` first.

    If one is not there, the index of lm-eval's own tasks is read, which takes many seconds. Raises
    `UserError` for a name that does not exist, and for a task that cannot be loaded or asked.
    """
    tasks = TaskManager(include_path=[*map(str, folders)], include_defaults=False)
    for name in names:
        if not _matches(name, tasks):
            if name.startswith("breeze"):
                raise _unknown(name, tasks)
            print("reading the index of lm-eval's tasks ...", file=sys.stderr)
            tasks = TaskManager(include_path=[*map(str, folders)])
            break
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in names:
        found = _matches(name, tasks)
        if not found:
            raise _unknown(name, tasks)
        for task in found:
            for part, entries in _load(tasks, task).items():
                loaded[part] |= entries
    for name, task in loaded["tasks"].items():
        _configure(name, task, num_fewshot)
    return loaded


def _matches(name: str, tasks: Any) -> list[str]:
    """Return the tasks that a name, or a pattern, stands for."""
    if name in tasks.all_tasks:
        return [name]
    return [task for task in tasks.all_tasks if fnmatch(task, name)]


def _unknown(name: str, tasks: Any) -> UserError:
    near = get_close_matches(name, tasks.all_tasks)
    advice = f"did you mean {', '.join(near)}? " if near else ""
    return UserError(f"task {name} is unknown: {advice}`lm-eval ls tasks` lists all of lm-eval")


def _load(tasks: Any, name: str) -> Any:
    """Load a task or a group.

    Its code and data are of many authors, and raise any error: it becomes a `UserError` with its
    first line.
    """
    try:
        return tasks.load([name])
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"task {name} cannot be loaded: {reason}; if its data is on the Hub and not yet on "
            "this machine, a network is needed"
        ) from error


def _configure(name: str, task: Any, num_fewshot: int | None) -> None:
    """Set the examples before each question, as lm-eval's own command does.

    Raises `UserError` for a task that cannot be asked.
    """
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"task {name} runs code that the model writes: leave it out")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"task {name} shows pictures, and the model reads text: leave it out")
    fixed = task.get_config("num_fewshot")
    if fixed is None or (num_fewshot is not None and fixed != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
        available = len(task.fewshot_docs()) - 1 if num_fewshot else 0
        if (num_fewshot or 0) > available:
            raise UserError(
                f"num_fewshot is {num_fewshot}: task {name} has {available} other documents",
                field="num_fewshot",
            )
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def run_tasks(trained: TrainedModel, tasks: Any, limit: float | None = None) -> Any:
    """Ask a model all tasks that `load_tasks` returned; return lm-eval's results.

    `limit` is the number of documents of each task; below 1, their share. Two calls give the same
    results.
    """
    random.seed(0)  # the seeds of lm-eval's own command
    np.random.seed(FEWSHOT_SEED)
    return evaluator.evaluate(HarnessModel(trained), tasks, limit=limit, log_samples=False)


def tables(results: Any) -> str:
    """Return lm-eval's table of the tasks, and that of the groups if there are any."""
    parts = ["results", *(["groups"] if results.get("groups") else [])]
    return "\n".join(make_table(results, part) for part in parts)
