"""The summary of a training run that train.py prints before the first update."""

from model import native
from model.cost import FLOAT32, cache_bytes, full_attention
from model.kernels import choose
from model.window import reach
from run import TrainingRun

CACHE_LENGTH = 100  # training sequences in the text for which the size of the cache is printed


def summary(run: TrainingRun) -> str:
    """Return a table of one fact per line: the model, the text, the device, the number of steps."""
    train = run.config.train
    tokens = run.corpus.n_tokens("train")
    total = run.config.tokens_per_step * train.max_steps
    drills = run.config.drills_before(train.max_steps) * run.config.data.seq_len
    drilled = f" and {drills:,} tokens of drills" if drills else ""
    rate = f"; a matrix product reaches {run.peak_flops / 1e9:,.0f} GFLOP/s"
    reasons = run.hardware.reasons
    rows = {
        "run": f"{run.folder}, step {run.step:,} of {train.max_steps:,}",
        "model": _model(run),
        "windows": _windows(run),
        "reach": _reach(run),
        "attention": _kernels(run),
        "cache": _cache(run),
        "text": _text(run),
        "step": f"{run.config.tokens_per_step:,} tokens; {total:,} in all steps: "
        f"{(total - drills) / tokens:.2f} epochs{drilled}",
        "marks": _marks(run),
        "usual": _usual(run),
        **reasons,
        "precision": reasons["precision"] + rate,
    }
    return "\n".join(f"{name:10} {text}" for name, text in rows.items())


def _model(run: TrainingRun) -> str:
    shape = run.model.config
    words = f"{sum(shape.parameter_counts().values()):,} parameters, {shape.n_layers} layers"
    if (lora := run.lora) is None:
        return words
    return f"{words}; only {lora.parameter_count(shape):,} of adapters of rank {lora.rank} train"


def _text(run: TrainingRun) -> str:
    """Count the training tokens and their bytes; with prompts, those that count in the loss."""
    tokens, prompts = run.corpus.n_tokens("train"), run.corpus.n_prompt_tokens("train")
    counted = tokens - prompts
    size = f"of {run.corpus.n_bytes('train') / counted:.2f} bytes"
    if not prompts:
        return f"{tokens:,} training tokens {size}"
    return (
        f"{tokens:,} training tokens; {counted:,} of them, {size}, are in the loss "
        f"({counted / tokens:.1%}), the others are prompts"
    )


def _windows(run: TrainingRun) -> str:
    shape, schedule = run.model.config, run.config.train.window_schedule
    windows = ", ".join(f"{window:,}" if window else "full" for window in shape.windows)
    sinks = f", {shape.sinks} sinks" if shape.sinks else ""
    return windows + sinks + ("" if schedule == "constant" else f" (schedule: {schedule})")


def _reach(run: TrainingRun) -> str:
    tokens = reach(run.model.config.windows)
    return f"{tokens:,} tokens through all layers" if tokens else "all earlier tokens"


def _kernels(run: TrainingRun) -> str:
    """Name the attention kernel of each kind of layer, with the reason."""
    shape, data, hardware = run.model.config, run.config.data, run.hardware
    assert shape.head_dim is not None
    with native.enabled(hardware.native):
        kernels = {
            ": ".join(
                choose(
                    shape.attention,
                    window,
                    data.seq_len,
                    device=hardware.device.type,
                    dtype=hardware.dtype,
                    head_dim=shape.head_dim,
                    documents=data.document_mask,
                    sink_token=shape.sink_token,
                )
            )
            for window in shape.windows
        }
    return "; ".join(sorted(kernels))


def _cache(run: TrainingRun) -> str:
    """Compare the key/value cache after a long text with that of full attention."""
    shape, length = run.model.config, CACHE_LENGTH * run.config.data.seq_len
    windowed = cache_bytes(shape, length, FLOAT32) / 1e6
    full = cache_bytes(full_attention(shape), length, FLOAT32) / 1e6
    return (
        f"{windowed:.2f} MB of keys and values after {length:,} tokens, {full:.2f} MB with full "
        "attention"
    )


def _marks(run: TrainingRun) -> str:
    """Name the losses that need no training, in nats per token as `val_loss`."""
    marks = run.usual.marks
    return (
        f"ln V {marks.uniform:.2f}, unigram entropy {marks.unigram:.2f}, xz {marks.xz:.2f} nats "
        f"per token ({marks.xz_bpb:.2f} bits per byte)"
    )


def _usual(run: TrainingRun) -> str:
    """Say where the loss of such a run ends, or why that is not known."""
    usual = run.usual
    if not usual.band:
        return f"unknown: {usual.source}"
    step = max(usual.band)
    low, high = usual.band[step]
    return f"val_loss {low:.4f} to {high:.4f} at step {step:,} ({usual.source})"
