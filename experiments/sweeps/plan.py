"""Which runs a sweep trains: a window and a seed each, and how many steps.

With equal tokens all runs have the same steps. With equal arithmetic or equal time the widest
window has the steps of the config, and the others have more. A measured time decides only once: the
steps are stored in plan.json of the sweep, and a second call reads them there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.load import split_arguments
from configs.settings import Config, lora_config, model_config
from errors import UserError
from experiments.sweeps.window_words import Choice
from experiments.train_runs import Training
from model.config import ModelConfig
from model.cost import flops_per_token
from storage import atomic_write

EQUAL = ("tokens", "flops", "time")
PLAN = "plan.json"
PROBE_ROUNDS = 5


@dataclass(frozen=True)
class Plan:
    """One config under several windows and seeds."""

    words: tuple[str, ...]  # [CONFIG] [section.key=value ...]
    choices: tuple[Choice, ...]
    seeds: int
    folder: Path
    equal: str  # one of EQUAL
    steps: Mapping[str, int]  # of each choice that differs from the config, by its word

    def trainings(self, choice: Choice) -> list[Training]:
        """Return the runs of one window, a seed each."""
        path, overrides = split_arguments(self.words)
        own = list(choice.overrides)
        if choice.word in self.steps:
            own.append(f"train.max_steps={self.steps[choice.word]}")
        own += [f"{name}=0" for name in _idle_sinks(choice, overrides)]
        return [
            Training((path, *overrides, *own, f"seed={seed}"),
                     self.folder / choice.folder / f"seed-{seed}")
            for seed in range(self.seeds)
        ]  # fmt: skip

    @property
    def all_trainings(self) -> list[Training]:
        """The runs in the order in which they begin: all windows of seed 0 first."""
        by_choice = [self.trainings(choice) for choice in self.choices]
        return [runs[seed] for seed in range(self.seeds) for runs in by_choice]

    def config(self, choice: Choice) -> Config:
        """Return the config of a window; its seed is 0."""
        return self.trainings(choice)[0].config()

    @property
    def base(self) -> Choice:
        """The window that the others are compared with: full, otherwise the most arithmetic."""
        for choice in self.choices:
            if choice.word == "full":
                return choice
        return max(self.choices, key=lambda choice: _flops(self.config(choice)))


def with_steps(plan: Plan) -> Plan:
    """Return the plan with the steps of each window, as `equal` says.

    The words of the plan fix the steps of the base. Raises `UserError` if plan.json was made for
    another config.
    """
    if plan.equal == "tokens":
        return plan
    base, configs = plan.base, {choice.word: plan.config(choice) for choice in plan.choices}
    most = configs[base.word].train.max_steps
    if plan.equal == "flops":
        cost = {word: _flops(config) for word, config in configs.items()}
        steps = {word: round(most * cost[base.word] / cost[word]) for word in configs}
    else:
        steps = _timed_steps(plan, base.word, configs)
    return replace(plan, steps={w: n for w, n in steps.items() if n != most})


def _timed_steps(plan: Plan, base: str, configs: Mapping[str, Config]) -> dict[str, int]:
    """Return steps that take equally long: those of plan.json, others by a short measurement."""
    from experiments.sweeps.speed import train_speeds

    file = plan.folder / PLAN
    steps = _read_plan(file, plan.words, base)
    if missing := [word for word in configs if word not in steps]:
        config = configs[base]
        probed = {word: shape_of(configs[word]) for word in dict.fromkeys([base, *missing])}
        speeds = train_speeds(
            probed, config.data.seq_len, config.train.micro_batch_size, PROBE_ROUNDS
        )
        for word in missing:
            steps[word] = max(1, round(config.train.max_steps * speeds[word] / speeds[base]))
        content = {"words": list(plan.words), "equal": "time", "base": base, "steps": steps}
        plan.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(file, (json.dumps(content, indent=1) + "\n").encode())
    return steps


def _read_plan(file: Path, words: Sequence[str], base: str) -> dict[str, int]:
    """Return the stored steps. Raises `UserError` if they are of another config or damaged."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        stored = {str(word): int(steps) for word, steps in content["steps"].items()}
        is_same = (content["words"], content["base"]) == (list(words), base)
    except (KeyError, TypeError, ValueError, AttributeError):
        is_same = False
    if not is_same:
        raise UserError(
            f"{file} has the steps of another sweep: choose another --folder, or remove the file"
        )
    return stored


def shape_of(config: Config) -> ModelConfig:
    """Return the model of a config; a short text may give a smaller vocabulary."""
    return model_config(config, config.tokenizer.vocab_size)


def _flops(config: Config) -> float:
    return flops_per_token(shape_of(config), config.data.seq_len, lora_config(config))


def _idle_sinks(choice: Choice, overrides: Sequence[str]) -> list[str]:
    """Return sinks of the command line that full attention has no use for: it would refuse them."""
    name = "model.attention_sinks"
    given = any(override.startswith(f"{name}=") for override in overrides)
    return [name] if given and choice.word == "full" else []
