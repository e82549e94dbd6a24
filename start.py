"""Start a training run: build what its config describes, new or from a checkpoint of the run."""

import os
import warnings

import torch
from torch import nn

from configs.load import config_from_dict, to_yaml
from configs.settings import Config, keys_of, lora_config, model_config
from data.text import open_text
from data.tokenizer import Tokenizer, open_tokenizer
from errors import UserError, fields_named
from inference.weights import TrainedWeights
from model import Transformer, native
from model.adapters import add_adapters
from model.cost import training_memory
from model.native.build import refusal
from run import TrainingRun, recorded_config
from storage import atomic_write, cache_folder
from training.checkpoint import Checkpoint
from training.device import Hardware, choose_hardware, keep_freed_memory, matmul_flops_per_s
from training.distributed import ALONE, World, parallelize
from training.memory import refuse_too_large
from training.optimizer import Optimizer
from training.resume import refuse_changes


@fields_named(keys_of("data", "tokenizer", "train"))
def start_run(
    config: Config,
    checkpoint: Checkpoint | None,
    initial: TrainedWeights | None = None,
    world: World = ALONE,
) -> TrainingRun:
    """Build everything that training needs, for a new run or from a checkpoint of this run.

    A new run starts from the weights and the tokenizer of `initial`, the trained model that
    train.init_from names; a run that continues has both in its checkpoint. Raises `UserError` if
    the run cannot fit in memory, or if model, tokenizer or text are not those of the checkpoint.
    """
    keep_freed_memory()
    hardware = _choose_hardware(config)
    # A short text may give a smaller vocabulary than the config's: here it is counted as one token.
    _refuse_too_large(config, 1, hardware, world)
    tokenizer = None  # trained on the text, unless the weights come with one
    if config.train.init_from is not None:
        trained = checkpoint or initial
        assert trained is not None, "open what train.init_from names"
        tokenizer = open_tokenizer(trained.tokenizer())
    tokenizer, corpus = open_text(config.data, config.tokenizer, tokenizer)
    _refuse_too_large(config, tokenizer.vocab_size, hardware, world)
    if checkpoint is not None:
        _refuse_changes(checkpoint, config, tokenizer, corpus.data_hash)
    model, replica, optimizer = _build(config, tokenizer.vocab_size, hardware, world)
    peak_flops = matmul_flops_per_s(hardware.device, hardware.dtype)
    run = TrainingRun(
        config, tokenizer, corpus, model, replica, optimizer, hardware, peak_flops, world=world
    )
    if checkpoint is not None:
        run.restore(checkpoint)
    elif initial is not None:
        run.start_from(initial)
    _arrange_buckets(run)
    if world.is_first:
        atomic_write(run.folder / "config.yaml", to_yaml(config).encode())
        atomic_write(run.folder / tokenizer.file_name, tokenizer.model_bytes)
    world.wait()
    return run


def _choose_hardware(config: Config) -> Hardware:
    """Choose what to train on. Raises `UserError` if it cannot train this config."""
    train = config.train
    hardware = choose_hardware(
        train.device, train.precision, train.compile, train.native, native.training_refusal
    )
    if hardware.device.type == "cpu":  # now, not in the middle of training, where it writes text
        refusal("decode", bf16=False)
    if config.model.attention == "flex" and hardware.device.type != "cuda":
        raise UserError(
            f"model.attention flex trains on CUDA only, this is {hardware.device.type}: use auto "
            "or blocked"
        )
    return hardware


def _build(
    config: Config, vocab_size: int, hardware: Hardware, world: World
) -> tuple[Transformer, nn.Module, Optimizer]:
    """Build the model, with weights and adapters drawn from the seed, what the processes of `world`
    make of it, and its optimizer."""
    train, lora = config.train, lora_config(config)
    torch.manual_seed(config.seed)
    model = Transformer(model_config(config, vocab_size))
    if lora is not None:
        add_adapters(model, lora)
    model = model.to(hardware.device)
    if hardware.compiled:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        warnings.filterwarnings("ignore", message="Torchinductor does not support code generation")
        model.compile_blocks()
    replica = parallelize(model, model.layers, train.parallel, world)
    optimizer = Optimizer(
        model.named_parameters(),
        name=train.optimizer,
        lr=train.lr,
        adamw_lr=train.adamw_lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        dtype=hardware.dtype,
        world=world,
    )
    return model, replica, optimizer


def _arrange_buckets(run: TrainingRun) -> None:
    """Compute gradients once with ddp, and drop them.

    DDP sends gradients in buckets. After its first pass it arranges them anew, in the order in
    which that pass computed them; the sum of several processes depends on their places in its last
    digits. With this pass before the first update, all updates have the same buckets, also those
    after a restart.
    """
    train = run.config.train
    if run.world.size == 1 or train.parallel != "ddp":
        return
    rows = min(train.micro_batch_size, run.config.batch_size // run.world.size)
    tokens = torch.zeros(rows, run.config.data.seq_len, dtype=torch.int64, device=run.device)
    run.model.set_windows(run.windows_at(run.step))
    run.loss(tokens, tokens).backward()
    for weight in run.model.parameters():
        weight.grad = None


def _refuse_too_large(config: Config, vocab_size: int, hardware: Hardware, world: World) -> None:
    """Raise `UserError` if this process's part cannot fit in the memory of its device."""
    memory = training_memory(
        model_config(config, vocab_size),
        min(config.train.micro_batch_size, config.batch_size // world.size),
        config.data.seq_len,
        config.train.optimizer,
        hardware.dtype.itemsize,
        lora=lora_config(config),
    )
    held = memory.total - memory.activations
    if config.train.parallel == "fsdp":
        held //= world.size
    refuse_too_large(held + memory.activations, memory.activations, hardware.device)


def _refuse_changes(
    checkpoint: Checkpoint, config: Config, tokenizer: Tokenizer, data_hash: str
) -> None:
    """Raise `UserError` if config, tokenizer or text differ from those of the checkpoint."""
    before = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
    refuse_changes(
        checkpoint,
        recorded_config(before),
        recorded_config(config),
        tokenizer=tokenizer.model_bytes,
        data_hash=data_hash,
        folder=str(config.folder),
    )
