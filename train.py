"""START HERE. Trains a small Mistral-style language model: `python train.py [CONFIG] [key=value]`.

The whole way, top to bottom:

    config.yaml -> text -> tokenizer -> token shards -> batch(step) -> model -> loss -> optimizer
                -> evaluation, a sample of text, a checkpoint -> next step

The learning rate and the batch are pure functions of (config, step). What must survive a crash is
therefore: weights, moments, one integer. `--resume` restores these, and the run ends with the same
bytes as one that was never interrupted.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.help import describe
from configs.load import QUICKSTART, load_config, split_arguments
from configs.rules import ignored
from configs.settings import Config
from errors import DIVERGED, ArgumentParser, UserError, command

if TYPE_CHECKING:  # a mistake in the config is told without waiting for torch
    from run import TrainingRun
    from training.interrupt import StopRequest
    from training.metrics import MetricsLog, SamplesLog
    from training.progress import Progress


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, then train."""
    parser = ArgumentParser(
        prog="python train.py",
        description="Train a small Mistral-style language model on a text.",
        epilog=describe() + "\n\nexample: python train.py configs/quickstart.yaml "
        "model.sliding_window=16 run_dir=runs/window-16",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[CONFIG] [section.key=value ...]",
        help=f"a YAML file (default {QUICKSTART}) and changes to it",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in the run's folder, if there is one",
    )
    arguments = parser.parse_args(argv)
    config = load_config(*split_arguments(arguments.words))
    for warning in ignored(config):
        print(f"note: {warning}", file=sys.stderr)
    return train(config, resume=arguments.resume)


def train(config: Config, *, resume: bool = False) -> int:
    """Train as `config` says, in its folder. Returns the exit code."""
    from run import start_run
    from training.checkpoint import newest
    from training.interrupt import StopRequest, lock
    from training.metrics import MetricsLog, SamplesLog

    checkpoints = config.folder / "checkpoints"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # run_dir is a file, or below one, or not ours to write in
        raise UserError(
            f"{checkpoints} cannot be made ({error.strerror}): choose another folder, run_dir=..."
        ) from None
    with lock(config.folder):
        for torn in config.folder.rglob(".*.part"):  # of a process that was killed while it wrote
            torn.unlink()
        checkpoint = newest(checkpoints)
        if checkpoint is not None and not resume:
            raise UserError(
                f"{config.folder} already holds a run (step {checkpoint.step:,}): go on with it by "
                "--resume, or begin another with run_dir=runs/NAME"
            )
        run = start_run(config, checkpoint)
        print_plan(run)
        metrics = MetricsLog(config.folder / "metrics.jsonl", run.step)
        samples = SamplesLog(config.folder / "samples.txt", run.step)
        with StopRequest() as stop:
            code = training_loop(run, metrics, samples, stop)
        if code == 0:
            finish(run)
        return code


def training_loop(
    run: TrainingRun, metrics: MetricsLog, samples: SamplesLog, stop: StopRequest
) -> int:
    """The loop: one iteration is one update of the weights. Returns the exit code."""
    from model.cost import flops_per_token
    from training.progress import Progress

    settings = run.config.train
    batches = run.corpus.batches(
        seq_len=run.config.data.seq_len,
        batch_size=settings.micro_batch_size * settings.grad_accum_steps,
        seed=run.config.seed,
    )
    finished = run.step >= settings.max_steps or out_of_patience(run)
    with Progress(run.step, settings.max_steps, run.config.tokens_per_step) as progress:
        while not finished:
            ratio = ratio_at(run)
            run.model.set_windows(run.windows_at(run.step))
            loss, grad_norm = train_step(run, batches.batch(run.step), ratio)
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                return diverged(run, f"loss {loss}, gradient norm {grad_norm}")
            run.step += 1
            finished = run.step == settings.max_steps
            progress.advance(loss)
            if run.step % settings.log_interval == 0 or finished:
                token_flops = flops_per_token(run.model.config, run.config.data.seq_len)
                metrics.write(
                    run.step,
                    train_loss=progress.mean_loss(),
                    grad_norm=grad_norm,
                    lr=settings.lr * ratio,
                    tokens_per_s=round(progress.tokens_per_s),
                    mfu=round(token_flops * progress.tokens_per_s / run.peak_flops, 3),
                )
            if run.step % settings.eval_interval == 0 or finished:
                val_loss = validate(run, metrics, samples, progress)
                if not math.isfinite(val_loss):
                    return diverged(run, f"val_loss {val_loss}")
                finished = finished or out_of_patience(run)
            stopping = stop.signal  # read once: it may come at any time
            if run.step % settings.save_interval == 0 or finished or stopping:
                path = run.save()
            if stopping and not finished:
                progress.show(f"saved {path}; go on with the same command and --resume")
                return 128 + stopping
    return 0


def ratio_at(run: TrainingRun) -> float:
    """The learning rate of the next update, as a share of the peak."""
    from training.schedule import lr_ratio

    settings = run.config.train
    return lr_ratio(
        run.step,
        schedule=settings.schedule,
        max_steps=settings.max_steps,
        warmup_steps=settings.warmup_steps,
        min_lr_ratio=settings.min_lr_ratio,
        decay_fraction=settings.decay_fraction,
    )


def train_step(run: TrainingRun, sequences: Any, ratio: float) -> tuple[float, float]:
    """Update the weights once from `sequences` (rows, seq_len + 1); returns loss and gradient norm.

    Where either is not finite the weights are left as they were.
    """
    import torch

    settings = run.config.train
    loss = 0.0
    for micro in torch.from_numpy(sequences).to(run.device).split(settings.micro_batch_size):
        part = run.loss(micro[:, :-1], micro[:, 1:]) / settings.grad_accum_steps
        part.backward()
        loss += part.item()
    limit = settings.grad_clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit).item()
    if math.isfinite(loss) and math.isfinite(norm):
        run.optimizer.step(ratio)
    return loss, norm


def diverged(run: TrainingRun, found: str) -> int:
    """Say that training ran away. Returns the exit code."""
    print(
        f"error: training diverged at step {run.step:,} ({found}): nothing "
        "was saved since; lower train.lr and go on from the last checkpoint with --resume",
        file=sys.stderr,
    )
    return DIVERGED


def validate(
    run: TrainingRun, metrics: MetricsLog, samples: SamplesLog, progress: Progress
) -> float:
    """Measure the whole validation split and write a sample of text. Returns val_loss.

    Where it is not finite nothing is noted: such a model can write nothing either.
    """
    run.model.set_windows(run.lasting_windows)
    score = run.score("val")
    if not math.isfinite(score.loss):
        return score.loss
    run.history |= {"val_loss": score.loss, "val_step": run.step}
    if score.loss < run.history.get("best_loss", math.inf):
        run.history |= {"best_loss": score.loss, "best_step": run.step}
    stepping_s = round(progress.seconds, 1)
    metrics.write(run.step, val_loss=score.loss, val_bpb=score.bpb, stepping_s=stepping_s)
    text = run.sample()
    samples.write(run.step, score.bpb, text)
    progress.show(
        f"step {run.step:,}: val_loss {score.loss:.4f}, {score.bpb:.4f} bits per byte after "
        f"{stepping_s} s of stepping; it writes: {' '.join(text.split())[:70]}"
    )
    return score.loss


def out_of_patience(run: TrainingRun) -> bool:
    """Whether `patience` evaluations in a row brought no better validation loss."""
    settings = run.config.train
    waited = run.step - run.history.get("best_step", run.step)
    return 0 < settings.patience <= waited // settings.eval_interval


def finish(run: TrainingRun) -> None:
    """Measure the test split, show what the model writes and say where everything lies."""
    folder = run.folder
    run.model.set_windows(run.lasting_windows)
    print(f"\ntrained {run.step:,} steps.", end=" ")
    if run.corpus.n_tokens("test"):
        print(f"On text it never saw: {run.score('test').bpb:.4f} bits per byte.", end=" ")
    print(f"""It writes:

{run.sample()}

checkpoint   {max((folder / "checkpoints").glob("step-*"))}
metrics      {folder / "metrics.jsonl"}
samples      {folder / "samples.txt"}
more text    python -m scripts.sample {folder}
its loss     python -m scripts.evaluate {folder}""")


def print_plan(run: TrainingRun) -> None:
    """Say what will happen before it happens."""
    from model.cost import cache_bytes, full_attention
    from model.kernels import choose
    from model.window import reach

    config, shape = run.config, run.model.config
    seq_len, tokens = config.data.seq_len, run.corpus.n_tokens("train")
    total = config.tokens_per_step * config.train.max_steps
    seen = reach(shape.windows)
    apart = config.data.document_mask
    kernels = {
        ": ".join(choose(shape.attention, window, seq_len, device=run.device.type, documents=apart))
        for window in shape.windows
    }
    schedule = config.train.window_schedule
    how = "" if schedule == "constant" else f" (train.window_schedule {schedule})"
    sinks = f", {shape.sinks} sinks" if shape.sinks else ""
    length = 100 * seq_len
    cached = cache_bytes(shape, length, 4) / 1e6
    uncached = cache_bytes(full_attention(shape), length, 4) / 1e6
    rows = {
        "run": f"{run.folder}, step {run.step:,} of {config.train.max_steps:,}",
        "model": f"{sum(shape.parameter_counts().values()):,} parameters, {shape.n_layers} layers",
        "windows": ", ".join(f"{w:,}" if w else "full" for w in shape.windows) + sinks + how,
        "reach": f"{seen:,} tokens through all layers" if seen else "everything before",
        "attention": "; ".join(sorted(kernels)),
        "cache": f"{cached:.2f} MB of keys and values after {length:,} tokens, "
        f"{uncached:.2f} MB without windows",
        "text": f"{tokens:,} training tokens of {run.corpus.n_bytes('train') / tokens:.2f} bytes",
        "step": f"{config.tokens_per_step:,} tokens; {total:,} in all: {total / tokens:.2f} epochs",
        **run.reasons,
    }
    print("\n".join(f"{name:10} {text}" for name, text in rows.items()))
    print("\nCtrl-C saves, and --resume goes on.\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
