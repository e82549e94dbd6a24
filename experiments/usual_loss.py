"""Where does the loss of such a run usually lie? `python -m experiments.usual_loss RUN RUN RUN ...`

Reads finished runs of one shipped config, which differ in the seed, the precision or the machine,
and prints the band of their validation losses at each step. `--store` writes it to
configs/bands/NAME.json, together with the runs that are stored there: training of this config then
prints whether its loss lies in the band. A band holds the next run with a probability of 99 %, if
runs are drawn from a normal distribution (Student's t). Few runs make it wide.
"""

import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.band import band_file, deciding, differences
from configs.load import SHIPPED, config_from_dict, load_config
from configs.settings import Config
from errors import ArgumentParser, UserError, command
from experiments.benchmarks.machine import describe_machine
from experiments.groups import is_last
from experiments.intervals import of_next
from experiments.pages.table import Table
from experiments.result import rebuild
from storage import atomic_write
from training.metrics import read_metrics
from training.run_folder import newest

CONFIDENCE = 0.99
FEWEST = 3  # with two runs, the band is 156 standard deviations wide
ENDS = ("lowest", "highest", "low", "high")  # of the measured losses, and of the band
PROG = "python -m experiments.usual_loss"


@dataclass(frozen=True)
class Run:
    """A finished run and its validation losses."""

    checkpoint: str  # name of the last one, which carries the hash of its content
    seed: int
    machine: str  # with its precision
    commit: str | None  # of the code that trained it
    val_loss: dict[str, float]  # by step


@dataclass(frozen=True)
class Family:
    """What the runs of one band have in common."""

    settings: Mapping[str, Any]
    data_hash: str


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the band of the runs; with --store also write it."""
    parser = ArgumentParser(
        prog=PROG,
        description="Print where the validation loss of a config usually lies, by step.",
        epilog=f"example: {PROG} runs/seed-0 runs/seed-1 runs/seed-2 --store",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--machine", help="where they were trained, with the precision (this machine)"
    )
    parser.add_argument("--commit", help="of the code that trained them (this code's)")
    parser.add_argument("--store", action="store_true", help="write configs/bands/NAME.json")
    arguments = parser.parse_args(argv)
    family, runs = read_runs(arguments)
    name = shipped_name(family)
    if arguments.store:
        runs = [*stored_runs(name, family), *runs]
    runs = list({run.checkpoint: run for run in runs}.values())
    if len(runs) < FEWEST:
        raise UserError(f"{len(runs)} different runs are given: a band needs {FEWEST} or more")
    steps = spans(runs)
    print(table(name, runs, steps).markdown())
    if arguments.store:
        content = {**asdict(family), "confidence": CONFIDENCE, "steps": steps}
        content["runs"] = [asdict(run) for run in runs]
        band_file(name).parent.mkdir(exist_ok=True)
        atomic_write(band_file(name), (json.dumps(content, indent=1) + "\n").encode())
        print(f"\nstored in {band_file(name)}")
    return 0


def read_runs(arguments: Namespace) -> tuple[Family, list[Run]]:
    """Return what the runs have in common, and the runs.

    Raises `UserError` if a run is missing or not finished, or if two differ in more than the seed,
    the precision and the machine.
    """
    family, runs = None, list[Run]()
    for folder in (folders := [Path(path) for path in arguments.runs]):
        checkpoint = newest(folder / "checkpoints")
        if checkpoint is None:
            raise UserError(f"{folder} is not a run: name the folder of a finished one")
        if not is_last(checkpoint):
            raise UserError(f"{folder} is not finished: python train.py {folder} --resume")
        config = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
        own = Family(deciding(config), checkpoint.metadata["data_hash"])
        family = family or own
        if different := differences(family.settings, own.settings):
            raise UserError(
                f"{folder} differs from {folders[0]} in {', '.join(different)}: a band is of runs "
                "with equal settings"
            )
        if own.data_hash != family.data_hash:
            raise UserError(
                f"{folder} was trained on another text than {folders[0]}: a band is of one text"
            )
        records = read_metrics(folder / "metrics.jsonl")
        losses = {str(r["step"]): float(r["val_loss"]) for r in records if "val_loss" in r}
        machine = arguments.machine or _machine(config)
        commit = arguments.commit or describe_machine().commit
        runs.append(Run(checkpoint.path.name, config.seed, machine, commit, losses))
    assert family is not None
    return family, runs


def _machine(config: Config) -> str:
    """Return the processor of this machine, and the precision that it chooses for the run."""
    from training.device import choose_device, choose_precision

    device, reason = choose_device(config.train.device)
    dtype, _ = choose_precision(config.train.precision, device)
    processor = describe_machine().processor if device.type == "cpu" else reason
    return f"{processor}, {str(dtype).removeprefix('torch.')}"


def shipped_name(family: Family) -> str:
    """Return the name of the shipped config of these settings. Raises `UserError` if none has
    them."""
    different = {
        path.stem: differences(deciding(load_config(path)), family.settings)
        for path in sorted(SHIPPED.glob("*.yaml"))
    }
    nearest = min(different, key=lambda name: len(different[name]))
    if different[nearest]:
        raise UserError(
            "bands are of shipped configs, these runs are of none: they differ from "
            f"configs/{nearest}.yaml in {', '.join(different[nearest])}"
        )
    return nearest


def stored_runs(name: str, family: Family) -> list[Run]:
    """Return the runs in the band of the config `name`; none if they are of another family, which
    is reported."""
    if not band_file(name).exists():
        return []
    content = json.loads(band_file(name).read_text(encoding="utf-8"))
    if differences(content["settings"], family.settings) or (
        content["data_hash"] != family.data_hash
    ):
        print(f"note: the runs in {band_file(name)} are replaced: settings or text changed since")
        return []
    return [rebuild(Run, run) for run in content["runs"]]


def spans(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return, for each step at which `FEWEST` runs or more were evaluated, their lowest and highest
    loss and the ends of the band, `low` and `high`."""
    result: dict[str, dict[str, float]] = {}
    for step in sorted({step for run in runs for step in run.val_loss}, key=int):
        losses = [run.val_loss[step] for run in runs if step in run.val_loss]
        if len(losses) >= FEWEST:
            low, high = of_next(losses, CONFIDENCE)
            result[step] = {
                "n": len(losses),
                "lowest": min(losses),
                "highest": max(losses),
                "low": low,
                "high": high,
            }
    return result


def table(name: str, runs: Sequence[Run], steps: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the band as a table; the caption names seeds and machines."""
    places = Counter(run.machine for run in runs)
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    rows = [
        [f"{int(step):,}", str(span["n"]), *(f"{span[end]:.4f}" for end in ENDS)]
        for step, span in steps.items()
    ]
    caption = (
        f"Validation loss of {len(runs)} runs of configs/{name}.yaml (seeds {seeds}), in nats per "
        f"token: the measured range, and the band that holds the next run with a probability of "
        f"{CONFIDENCE:.0%}. " + "; ".join(f"{n} on {place}" for place, n in places.items())
    )
    return Table(["step", "runs", "lowest", "highest", "band from", "to"], rows, caption)


if __name__ == "__main__":
    sys.exit(main())
