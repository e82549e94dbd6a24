"""START HERE. Trains a small Mistral-style language model: `python train.py [CONFIG] [key=value]`.

The whole path, top to bottom:

    config.yaml -> text -> tokenizer -> token shards -> batch(step) -> model -> loss -> optimizer
                -> evaluation, a sample of text, a checkpoint -> next step

The learning rate and the batch are pure functions of (config, step). So a checkpoint needs only the
weights, the optimizer's moments and one integer. `--resume` restores them, and the run ends with
the same bytes as a run that was never interrupted.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from arguments import add_config, locate_run, open_initial, read_config
from configs.help import describe
from configs.settings import Config, keys_of
from errors import DIVERGED, ArgumentParser, UserError, command, fields_named
from model.cost import flops_per_token
from storage import lock, make_folder, remove_torn_files
from training.checkpoint import Checkpoint
from training.distributed import ALONE, World, accumulating, whole
from training.interrupt import StopRequest
from training.loggers import refuse_unavailable
from training.metrics import read_metrics
from training.progress import Progress
from training.run_folder import find, newest
from training.run_log import RunLog

# torch takes seconds to import. Every module that imports it is imported inside the functions below
# that use it, so that `--help` and errors in a config are printed at once.
if TYPE_CHECKING:
    from run import TrainingRun


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, then train. Returns the exit code."""
    parser = ArgumentParser(
        prog="python train.py",
        description="Train a small Mistral-style language model on a text.",
        epilog=describe() + "\n\nexample: python train.py configs/quickstart.yaml "
        "model.sliding_window=16 run_dir=runs/window-16",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint in the run's folder, if there is one",
    )
    arguments = parser.parse_intermixed_args(argv)
    arguments.words = locate_run(arguments.words)
    world = World.of_environment()
    world.silence_others()
    resume = arguments.resume or world.is_restarted
    return train(read_config(arguments, resume=resume), resume=resume, world=world)


@fields_named({"folder": "run_dir"} | keys_of("data", "train"))
def train(config: Config, *, resume: bool = False, world: World = ALONE) -> int:
    """Train as `config` describes, in the run's folder. Returns the exit code.

    Each process of `world` calls this. Raises `UserError` if the folder holds a run and `resume` is
    False, if another process trains in it, if a logger cannot be used, if memory does not suffice,
    or if the processes cannot share the batch equally.
    """
    refuse_unavailable(config.train.loggers)
    world.refuse_remainder(config.batch_size)
    checkpoints = config.folder / "checkpoints"
    try:
        make_folder(checkpoints)
    except OSError as error:  # run_dir is a file, or lies below one, or may not be written to
        raise UserError(
            f"{checkpoints} cannot be created ({error.strerror}): choose another folder with "
            "run_dir=..."
        ) from None
    with world.joined(), lock(config.folder, wait=False) if world.is_first else nullcontext():
        if world.is_first:
            remove_torn_files(config.folder)
        world.wait()  # until the first process has the lock
        checkpoint = checkpoint_to_resume(config, resume)
        world.refuse_unequal(*(checkpoint.identity if checkpoint else (-1, 0)))
        return train_from(config, checkpoint, world)


def train_from(config: Config, checkpoint: Checkpoint | None, world: World = ALONE) -> int:
    """Train from `checkpoint`, or from the beginning if it is None. Returns the exit code.

    Raises `UserError` if memory does not suffice, if `checkpoint` is not of the same run, or if
    what train.init_from names cannot be opened.
    """
    from start import start_run
    from summary import summary
    from training.memory import TRAINING_REMEDY, allocation_errors

    with allocation_errors(TRAINING_REMEDY):
        run = start_run(config, checkpoint, None if checkpoint else open_initial(config), world)
        print(summary(run), end="\n\n")
        with run.open_log() as log:
            print("Ctrl-C saves and stops; --resume continues.\n", flush=True)
            with StopRequest() as stop:
                code = training_loop(run, log, stop)
        if code == 0:
            finish(run)
        return code


def checkpoint_to_resume(config: Config, resume: bool) -> Checkpoint | None:
    """Return the newest checkpoint in the run's folder; None if there is none.

    Raises `UserError` if there is one and `resume` is False, or if it cannot be resumed.
    """
    checkpoint = newest(config.folder / "checkpoints")
    if checkpoint is not None:
        checkpoint.refuse_without_moments()
    if checkpoint is not None and not resume:
        raise UserError(
            f"{config.folder} already holds a run (step {checkpoint.step:,}): continue it with "
            "--resume, or start another with run_dir=runs/NAME"
        )
    if checkpoint is None and resume:
        print(
            f"note: {config.folder} has no checkpoint to resume: training starts at step 0",
            file=sys.stderr,
        )
    return checkpoint


def training_loop(run: TrainingRun, log: RunLog, stop: StopRequest) -> int:
    """Train to the end: one iteration is one update of the weights. Returns the exit code."""
    settings, batches = run.config.train, run.batches()
    finished = is_finished(run)
    if finished:
        report_nothing_left(run)
    with Progress(run.step, settings.max_steps, run.config.tokens_per_step) as progress:
        while not finished:
            lr_ratio = run.lr_ratio_at(run.step)
            run.model.set_windows(run.windows_at(run.step))
            sequences = batches.batch(run.step)
            loss, grad_norm = train_step(run, sequences, lr_ratio)
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                return diverged(run, f"loss {loss}, gradient norm {grad_norm}")
            run.step += 1
            finished = run.step == settings.max_steps
            progress.advance(loss, loss_label(drill_share(run)), weight=counted_share(sequences))
            if run.step % settings.log_interval == 0 or finished:
                log_step(run, log, progress, grad_norm, lr_ratio)
            if run.step % settings.eval_interval == 0 or finished:
                val_loss = validate(run, log, progress)
                if not math.isfinite(val_loss):
                    return diverged(run, f"val_loss {val_loss}")
                finished = is_finished(run)
            stopping = run.world.largest(stop.signal)  # read once: a signal may come at any time
            if run.step % settings.save_interval == 0 or finished or stopping or must_keep(run):
                if not run.is_finite():
                    return diverged(run, "a weight or a moment is not finite")
                run.save()
                log.saved()
            if stopping and not finished:
                path = run.finish_saving()
                progress.show(f"saved {path}; the same command with --resume continues")
                return 128 + stopping
    run.finish_saving()
    return 0


def drill_share(run: TrainingRun) -> float:
    """Return the share of the sequences of the last update that were drills."""
    drills = run.config.drills_before(run.step) - run.config.drills_before(run.step - 1)
    return drills / run.config.batch_size


def counted_share(sequences: Any) -> float:
    """Return the share of the targets of `sequences` (rows, seq_len + 1) that count in the loss:
    all but the tokens of prompts, which are negative (data/prompts.py)."""
    return float((sequences[:, 1:] >= 0).mean())


def loss_label(share: float) -> str:
    """Name the loss of an update by its share of drills: only equal shares can be compared."""
    if share == 1:
        return "loss of drills"
    return "loss with drills" if share else "loss"


def log_step(
    run: TrainingRun, log: RunLog, progress: Progress, grad_norm: float, lr_ratio: float
) -> None:
    """Write a line of metrics: the mean loss since the last line, and the speed so far.

    In a run with drills, `drill_share` is the share of drills among this step's sequences. The mean
    contains their loss. There is no mean if all tokens since then were of prompts.
    """
    config = run.config
    has_drills = config.drills_before(config.train.max_steps) > 0
    share = {"drill_share": drill_share(run)} if has_drills else {}
    flops = flops_per_token(run.model.config, config.data.seq_len, run.lora)
    mean = progress.mean_loss()
    log.write(
        run.step,
        **({} if mean is None else {"train_loss": mean}),
        grad_norm=grad_norm,
        lr=config.train.lr * lr_ratio,
        tokens_per_s=round(progress.tokens_per_s),
        mfu=round(flops * progress.tokens_per_s / (run.peak_flops * run.world.size), 3),
        **share,
    )


def train_step(run: TrainingRun, sequences: Any, lr_ratio: float) -> tuple[float, float]:
    """Update the weights once from `sequences` (rows, seq_len + 1), an integer array.

    Returns the loss, in nats per token, and the norm of the gradient before clipping. Both are of
    the mean over all targets of the update that count (see `counted_share`): micro-batches weigh as
    much as they have such targets. If one of them is not finite, the weights are left unchanged.
    Each process of the run computes its share of the rows.
    """
    import torch

    settings = run.config.train
    loss, rows = 0.0, torch.from_numpy(run.world.share(sequences))
    micro_batches = rows.split(settings.micro_batch_size)
    total = max(1, int((sequences[:, 1:] >= 0).sum()))
    for number, micro_batch in enumerate(micro_batches, 1):
        parts = total / max(1, int((micro_batch[:, 1:] >= 0).sum()))  # exactly n if n are equal
        micro_batch = micro_batch.to(run.device)
        with accumulating(run.replica, is_last=number == len(micro_batches)):
            micro_loss = run.loss(micro_batch[:, :-1], micro_batch[:, 1:]) / parts
            micro_loss.backward()
        loss += micro_loss.item()
    loss = run.world.total(loss)
    max_norm = settings.grad_clip or math.inf
    grad_norm = whole(torch.nn.utils.clip_grad_norm_(run.model.parameters(), max_norm)).item()
    if math.isfinite(loss) and math.isfinite(grad_norm):
        run.optimizer.step(lr_ratio)
    return loss, grad_norm


def diverged(run: TrainingRun, values: str) -> int:
    """Report that the loss or the gradient is not finite. Returns the exit code."""
    run.finish_saving()
    print(
        f"error: training diverged at step {run.step:,} ({values}): nothing was saved after the "
        "last checkpoint; lower train.lr and continue from there with --resume",
        file=sys.stderr,
    )
    return DIVERGED


def validate(run: TrainingRun, log: RunLog, progress: Progress) -> float:
    """Score the whole validation split and write a sample of text. Returns the validation loss.

    If the loss is not finite, nothing is logged and no sample is written.
    """
    run.model.set_windows(run.inference_windows)
    score = run.score("val")
    if not math.isfinite(score.loss):
        return score.loss
    run.history |= {"val_loss": score.loss, "val_step": run.step}
    if score.loss < run.history.get("best_loss", math.inf):
        run.history |= {"best_loss": score.loss, "best_step": run.step}
    stepping_s = round(progress.seconds, 1)
    log.write(run.step, val_loss=score.loss, val_bpb=score.bpb, stepping_s=stepping_s)
    text = run.sample()
    log.sample(run.step, score.bpb, text)
    if not run.world.is_first:  # the first process has the log
        return score.loss
    verdict = run.usual.verdict(read_metrics(run.folder / "metrics.jsonl"))
    progress.show(
        f"step {run.step:,}: val_loss {score.loss:.4f} ({verdict.place}), {score.bpb:.4f} bits per "
        f"byte after {stepping_s} s of stepping; it writes: {' '.join(text.split())[:70]}"
    )
    if verdict.advice:
        progress.show(f"advice: {verdict.advice}")
    return score.loss


def is_finished(run: TrainingRun) -> bool:
    """Return whether no update is left to do."""
    return run.step >= run.config.train.max_steps or out_of_patience(run)


def report_nothing_left(run: TrainingRun) -> None:
    """Print why a resumed run has no update to do, and which setting changes that."""
    setting = "train.patience" if out_of_patience(run) else "train.max_steps"
    print(
        f"note: nothing is left to do at step {run.step:,}, because of {setting}: make it larger "
        "to continue",
        file=sys.stderr,
    )


def out_of_patience(run: TrainingRun) -> bool:
    """Return whether the last `patience` evaluations all failed to lower the validation loss."""
    settings = run.config.train
    since_best = run.step - run.history.get("best_step", run.step)
    return 0 < settings.patience <= since_best // settings.eval_interval


def must_keep(run: TrainingRun) -> bool:
    """Return whether these are the best weights so far, in a run that `patience` may end."""
    return run.config.train.patience > 0 and run.history.get("best_step") == run.step


def finish(run: TrainingRun) -> None:
    """Report the end: its reason, the best checkpoint, the test score, a sample, all files.

    Loads the weights of the best checkpoint, which is also the one that other commands open.
    """
    folder, best = run.folder, find(run.folder)
    print(f"\ntrained {run.step:,} steps.", end=" ")
    if out_of_patience(run):
        reason = f"{run.config.train.patience} evaluations in a row did not lower val_loss"
        print(f"Stopped early: {reason} (train.patience).", end=" ")
    if best.step != run.step:
        print(f"The best weights are those of step {best.step:,}, used below.", end=" ")
        run.load_weights(best)
        run.step = best.step
    run.model.set_windows(run.inference_windows)
    if run.corpus.n_tokens("test"):
        print(f"On text it never saw: {run.score('test').bpb:.4f} bits per byte.", end=" ")
    print(f"""It writes:

{run.sample()}

checkpoint   {best.path}
metrics      {folder / "metrics.jsonl"}
samples      {folder / "samples.txt"}
more text    python -m scripts.sample {shlex.quote(str(folder))}
its loss     python -m scripts.evaluate {shlex.quote(str(folder))}""")


if __name__ == "__main__":
    sys.exit(main())
