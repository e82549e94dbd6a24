"""What `scripts.plan --world` counts, compared with real processes of FSDP and real shards.

The processes are started by torch; the sizes are those of their tensors, of the tensors that they
pass to torch's collectives, and of the files of a checkpoint.
"""

import json
import multiprocessing
import os
import re
import shlex
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.settings import Config, lora_config, model_config
from model.parallel_cost import weights_of
from scripts import plan, shards
from scripts.plan import share

ROOT = Path(__file__).parents[2]
QUICKSTART, MISTRAL = str(ROOT / "configs/quickstart.yaml"), str(ROOT / "configs/mistral-7b.yaml")
# 36 rows, 5 rows, 3 sink logits, a vocabulary of 33: four processes get unequal parts, some none.
ODD = [
    "model.dim=36", "model.n_layers=3", "model.n_heads=3", "model.n_kv_heads=3",
    "model.head_dim=6", "model.hidden_dim=5", "model.sink_token=true", "model.sink_logits=true",
    "model.tie_embeddings=false", "data.seq_len=8",
    "train.micro_batch_size=2", "train.grad_accum_steps=4",
]  # fmt: skip
CASES = {
    "muon": ["train.optimizer=muon"],
    "adamw, tied": ["train.optimizer=adamw", "model.tie_embeddings=true"],
    "lora": ["train.init_from=runs/a", "train.lora_rank=2", "train.lora_targets=[wq, w2]"],
}


def config_of(case: str) -> Config:
    config = load_config(QUICKSTART, [*ODD, *CASES[case]])
    return replace(config, tokenizer=replace(config.tokenizer, vocab_size=33))


def real_rank(rank: int, size: int, port: int, folder: Path) -> None:
    """Train one step of every case in one of `size` processes; record what it held and sent."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    from training.distributed import World

    world = World.of_environment()
    with world.joined():
        found = {case: real_case(config_of(case), world, folder / case) for case in CASES}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


def real_case(config: Config, world: Any, folder: Path) -> dict[str, int]:
    import torch

    from model import Transformer
    from model.adapters import add_adapters
    from training.checkpoint import tensors_of
    from training.distributed import own_part, parallelize
    from training.optimizer import Optimizer
    from training.sharded import save_sharded

    torch.manual_seed(0)
    train, lora = config.train, lora_config(config)
    model = Transformer(model_config(config, config.tokenizer.vocab_size))
    if lora is not None:
        add_adapters(model, lora)
    replica = parallelize(model, model.layers, "fsdp", world)
    optimizer = Optimizer(
        model.named_parameters(), name=train.optimizer, lr=0.1, adamw_lr=0.1, weight_decay=0,
        world=world,
    )  # fmt: skip
    tokens = torch.randint(0, 33, (config.batch_size // world.size, 8))
    with recorded(world.size) as sent:
        for rows in tokens.split(train.micro_batch_size):
            replica(rows, targets=rows).backward()
        gathered, scattered = sent["gather"], sent["scatter"]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        held = sum(own_part(gradient).nbytes for gradient in gradients)
        optimizer.step(1)
        by_muon = sent["gather"] - gathered
    weights, moments = dict(model.named_parameters()), optimizer.moments()
    if world.is_first:
        folder.mkdir()
    world.wait()
    metadata = {"config": {}, "data_hash": ""}
    stored = tensors_of(weights, moments, b"tokenizer")
    save_sharded(folder, 1, stored, metadata, world, lambda path: None).result()
    world.wait()
    return {
        "weights": sum(own_part(weight).nbytes for weight in weights.values()),
        "gradients": held,
        "moments": sum(own_part(moment).nbytes for moment in moments.values()),
        "all-gather of weights": gathered,
        "reduce-scatter of gradients": scattered,
        "all-gather of Muon's directions": by_muon,
    }


class recorded:
    """Count the bytes that rings send for the collectives that torch dispatches in the block."""

    def __init__(self, size: int) -> None:
        self.size, self.sent = size, {"gather": 0, "scatter": 0}

    def __enter__(self) -> dict[str, int]:
        from torch.utils._python_dispatch import TorchDispatchMode

        size, sent = self.size, self.sent

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                name = func.name()
                if name.startswith(("c10d::_allgather_base", "_c10d_functional::all_gather_into")):
                    part = args[1] if name.startswith("c10d::") else args[0]
                    sent["gather"] += (size - 1) * part.nbytes
                if name.startswith("c10d::_reduce_scatter_base"):
                    sent["scatter"] += (size - 1) * args[0].nbytes
                return func(*args, **(kwargs or {}))

        self.mode = Mode()
        self.mode.__enter__()
        return sent

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)


def in_processes(size: int, folder: Path) -> list[dict[str, dict[str, int]]]:
    """Run `real_rank` in `size` processes and return what each recorded."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed.fsdp"])
    processes = [
        context.Process(target=real_rank, args=(rank, size, port, folder)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_plan_is_what_real_processes_hold_send_and_write(size: int, tmp_path: Path) -> None:
    """A tensor could be counted twice or not at all, rows could be divided otherwise, the root
    could be collected as often as a layer, or a shard could hold another part."""
    ranks = in_processes(size, tmp_path)
    for case in CASES:
        result = share(config_of(case), size, "fsdp")
        (checkpoint,) = (tmp_path / case).glob("*.sharded")
        files = shards.shards_of(checkpoint)
        assert len(files) == size
        for rank, (held, file) in enumerate(zip(result.cost.ranks, files, strict=True)):
            real = ranks[rank][case]
            assert vars(held) == {name: real[name] for name in vars(held)}, (case, rank)
            assert (file.weights, file.moments) == (held.weights, held.moments), (case, rank)
            assert file.total == result.cost.checkpoint[rank]
            for purpose in ("all-gather of weights", "reduce-scatter of gradients",
                            "all-gather of Muon's directions"):  # fmt: skip
                assert real[purpose] == result.cost.sent.get(purpose, 0), (case, purpose)
    assert {held.weights for held in result.cost.ranks} != {result.cost.ranks[0].weights}


@pytest.mark.parametrize("case", CASES)
def test_the_tensors_are_those_of_the_model(case: str) -> None:
    """A name, a shape or a number of layers could be wrong and the sum right by chance."""
    from model.adapters import add_adapters
    from model.transformer import empty_model

    config = config_of(case)
    shape, lora = model_config(config, 33), lora_config(config)
    model = empty_model(shape)
    if lora is not None:
        add_adapters(model, lora)
    listed = {
        f"layers.{layer}.{weight.name}" if weight.layers else weight.name: (
            weight.shape, weight.moments > 0
        )
        for weight in weights_of(shape, config.train.optimizer, lora)
        for layer in range(weight.count)
    }  # fmt: skip
    assert listed == {n: (tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("case", CASES)
def test_the_parts_of_all_processes_are_the_whole(case: str, size: int, kind: str) -> None:
    """Rows could be lost or held twice."""
    config = config_of(case)
    memory = plan.plan(config).memory
    cost = share(config, size, kind).cost
    copies = 1 if kind == "fsdp" else size
    for name in ("weights", "gradients", "moments"):
        total = sum(getattr(held, name) for held in cost.ranks)
        assert total == getattr(memory, name) * copies
    assert sum(cost.checkpoint) == memory.checkpoint
    if size == 1:
        assert not any(cost.sent.values()) and cost.gathered == 0


def test_copies_send_their_gradients_once_a_step() -> None:
    """A ring's all-reduce sends 2 (N - 1) / N times the gradients, and Muon its matrices."""
    config = config_of("muon")
    gradients = plan.plan(config).memory.gradients
    matrices = 3 * (4 * 18 * 36 + 3 * 36 * 5)
    assert share(config, 4, "ddp").cost.sent == {
        "all-reduce of gradients": 2 * 3 * gradients // 4,
        "broadcast of Muon's updates": 3 * 4 * matrices // 4,
    }


def test_muon_holds_the_matrices_of_one_shape_whole() -> None:
    """The largest group: wq, wk and wv of three layers, and a quarter of the results."""
    assert share(config_of("muon"), 4, "fsdp").cost.directions == (9 + 3) * 18 * 36 * 4


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert plan.main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("size", "accumulated"), [(8, 128), (256, 256)])
def test_mistral_7b_on_paper(
    size: int, accumulated: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """All rows of Mistral 7B divide by 256, so every process holds exactly 1 / N of everything."""
    words = [MISTRAL, f"train.grad_accum_steps={accumulated}", "--world", str(size)]
    words += ["--parallel", "fsdp", "--json"]
    result = json.loads(run(capsys, *words))["share"]
    held = 4 * 7_241_732_096 // size
    for rank in result["cost"]["ranks"]:
        assert rank == {"weights": held, "gradients": held, "moments": 2 * held}
    root, layer = 2 * 32_000 * 4096 + 4096, 218_112_000
    assert root + 32 * layer == 7_241_732_096
    sent = result["cost"]["sent"]
    parts = accumulated // size
    assert sent["all-gather of weights"] == parts * 4 * (size - 1) * (root + 64 * layer) // size
    assert sent["reduce-scatter of gradients"] == parts * held * (size - 1)
    assert result["cost"]["gathered"] == 4 * (root + layer + root)
    memory = 4 * held + result["cost"]["gathered"] + result["activations"]
    assert result["total"] == memory


def test_the_table_has_the_default_and_the_times(capsys: pytest.CaptureFixture[str]) -> None:
    """`--world` alone must take train.parallel; the share of the peak must be that of its times."""
    assert "WHAT EACH RANK HOLDS, ddp, 2 processes" in run(capsys, QUICKSTART, "--world", "2")
    words = [QUICKSTART, "train.parallel=fsdp", "--world", "2", "--speeds", "0.1", "1"]
    text = run(capsys, *words)
    assert "WHAT EACH RANK HOLDS, fsdp, 2 processes" in text
    result = json.loads(run(capsys, *words, "--json"))
    times = result["share"]["arithmetic_s"], result["share"]["transfer_s"]
    assert times[0] == result["flops_per_step"] / 2 / 1e11
    assert times[1] == sum(result["share"]["cost"]["sent"].values()) / 1e9
    assert f"{times[0] / sum(times):.1%}  if they do not overlap" in text
    assert f"{times[0] / max(times):.1%}  if both overlap fully" in text


PRINTED = re.findall(
    r"^\$ python -m scripts\.plan (.*)\n((?:(?!\$|```).*\n)+)",
    (ROOT / "docs/scaling.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_the_page_shows_commands() -> None:
    """The next test would pass if it found nothing to compare."""
    assert len(PRINTED) == 4 and all(lines.count("\n") >= 3 for _, lines in PRINTED)


@pytest.mark.parametrize(("line", "lines"), PRINTED, ids=[line[-40:] for line, _ in PRINTED])
def test_the_page_shows_what_the_command_prints(
    line: str, lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/scaling.md could show numbers of another version."""
    assert run(capsys, *shlex.split(line)).endswith(lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--world", "3"], "3 processes cannot share equally: choose a multiple"),
        (["--world", "0"], "--world is 0: it must be from 1 to"),
        (["--world", "99999999999"], "it must be from 1 to 65,536"),
        (["--world", "two"], "invalid int value"),
        (["--parallel", "fsdp"], "need --world N"),
        (["--world", "2", "--speeds", "0", "1"], "both above 0"),
        (["--world", "2", "--speeds", "nan", "1"], "both above 0"),
    ],
)
def test_a_wrong_number_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or a page that takes hours to count."""
    assert plan.main([QUICKSTART, *words]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.count("\n") == 1 and message in found.err


def test_shards_without_torch_and_of_no_checkpoint(tmp_path: Path) -> None:
    """A page from headers must appear at once, and another folder is one line."""
    code = (
        "import sys, scripts.shards as s\n"
        f"print(s.main([{str(tmp_path)!r}]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"] and done.stderr.count("\n") == 1


def index_of_one_weight(folder: Path) -> None:
    """Write the index of a checkpoint with one weight of four rows."""
    metadata = {"format": 1, "step": 1, "config": {}, "data_hash": ""}
    tensors = {"tokenizer": ["U8", [3]], "w": ["F32", [4, 2]]}
    index = {"metadata": metadata, "files": {}, "tensors": tensors}
    (folder / "checkpoint.json").write_text(json.dumps(index))


def write_header(path: Path, header: Any) -> None:
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)


def test_shards_of_rows_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page could show other rows or shares than the headers list."""
    index_of_one_weight(tmp_path)
    for number, rows in enumerate((3, 1)):
        header = {"w": {"dtype": "F32", "shape": [rows, 2]}}
        write_header(tmp_path / f"shard-0000{number}-model.safetensors", header)
    assert shards.main([str(tmp_path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "shard-" in line]
    assert [row[1:5] for row in rows] == [["1", "3", "24", "B"], ["1", "1", "8", "B"]]
    assert [row[7] for row in rows] == ["75.0%", "25.0%"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": {"dtype": "F32", "shape": [3, 2]}}, "do not hold the tensors of its index"),
        ({"w": {"dtype": "F32", "shape": [5, 2]}}, "is no block of rows"),
        ({"w": {"dtype": "F32", "shape": [-4, 2]}}, "is no block of rows"),
        ({"w": {"dtype": "F32", "shape": ["4", 2]}}, "is no block of rows"),
        ({"w": {"dtype": "F32", "shape": []}}, "is no block of rows"),
        ({"w": {"dtype": "F32", "shape": 4}}, "is no block of rows"),
        ({"w": 4}, "is no block of rows"),
        ({"w": {"dtype": "F32", "shape": [4, 3]}}, "is not of the shape that the index lists"),
        ({"w": {"dtype": ["F32"], "shape": [4, 2]}}, "is not of the shape that the index lists"),
        ([], "its header cannot be read"),
    ],
)
def test_a_damaged_shard_is_one_line(
    tmp_path: Path, header: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or wrong numbers."""
    index_of_one_weight(tmp_path)
    path = tmp_path / "shard-00001-model.safetensors"
    write_header(path, header)
    assert shards.main([str(tmp_path)]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.startswith("error: ") and found.err.count("\n") == 1
    assert message in found.err


def test_a_pipe_in_place_of_a_shard_is_refused(tmp_path: Path) -> None:
    """To open a pipe waits for ever: nobody writes to it."""
    index_of_one_weight(tmp_path)
    os.mkfifo(tmp_path / "shard-00001-model.safetensors")
    command = [sys.executable, "-m", "scripts.shards", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "is not a regular file" in done.stderr
