"""Every setting of a run: type, default, unit, range and a line on what it means.

The dataclasses mirror the YAML: `train: {lr: 0.02}` is `config.train.lr`, and `train.lr=0.02` on
the command line. Whatever is wrong is told at once, in one line. `python -m configs.schema` writes
schema.json, by which an editor completes and checks the YAML files. Torch-free: the shape of the
model is judged by `ModelConfig` itself.
"""

import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from configs import strict_yaml
from configs.setting import Setting, declared, setting, spell
from errors import UserError, command
from model.config import ATTENTION, SCALING, ModelConfig
from storage import atomic_write

QUICKSTART = "configs/quickstart.yaml"
MAX_BYTES = 65_536  # a config is a page or two; a file that is not one must not be read to its end
SOURCES = ("stories", "shakespeare", "files", "hub")
SHOWN = 10  # mistakes told in one line, the rest are counted


@dataclass(frozen=True)
class ModelSettings:
    """The architecture; `ModelConfig` without `vocab_size`, which the tokenizer gives."""

    dim: int = setting(ModelConfig.dim, "width of the residual stream", unit="numbers")
    # The bound keeps a misplaced digit from building a list of windows that fills the memory.
    n_layers: int = setting(ModelConfig.n_layers, "transformer blocks", maximum=10_000)
    n_heads: int = setting(ModelConfig.n_heads, "query heads in a layer")
    n_kv_heads: int = setting(ModelConfig.n_kv_heads, "key/value heads; divides n_heads (GQA)")
    head_dim: int | None = setting(
        ModelConfig.head_dim, "width of a head; null: dim / n_heads", unit="numbers"
    )
    hidden_dim: int | None = setting(
        ModelConfig.hidden_dim, "width inside the feed-forward; null: 8/3 * dim", unit="numbers"
    )
    sliding_window: int | tuple[int | None, ...] | None = setting(
        ModelConfig.sliding_window,
        "keys a query sees, its own included; null: all; a list is tiled",
        unit="tokens",
    )
    attention_sinks: int = setting(
        ModelConfig.attention_sinks, "first tokens that every query goes on seeing", unit="tokens"
    )
    sink_token: bool = setting(
        ModelConfig.sink_token, "a trained vector in front of every text, seen for ever"
    )
    sink_logits: bool = setting(
        ModelConfig.sink_logits, "a trained score in each head's softmax that has no value"
    )
    rope_theta: float = setting(ModelConfig.rope_theta, "base of the rotary wavelengths")
    rope_theta_local: float | None = setting(
        ModelConfig.rope_theta_local, "the base in layers with a window; null: rope_theta"
    )
    rope_scaling: str = setting(
        ModelConfig.rope_scaling, "how positions are stretched for longer texts", choices=SCALING
    )
    rope_factor: float = setting(
        ModelConfig.rope_factor, "how many times longer than trained", minimum=1
    )
    rope_original_len: int | None = setting(
        ModelConfig.rope_original_len,
        "the trained length, which yarn needs",
        unit="tokens",
        minimum=1,
    )
    norm_eps: float = setting(ModelConfig.norm_eps, "added under RMSNorm's root")
    tie_embeddings: bool = setting(
        ModelConfig.tie_embeddings, "one table for input and output tokens"
    )
    attention: str = setting(
        ModelConfig.attention, "how attention is computed, not what", choices=ATTENTION
    )


@dataclass(frozen=True)
class DataSettings:
    """Where the text comes from, and how it is cut."""

    source: str = setting("stories", "where documents come from", choices=SOURCES)
    stories: int = setting(
        4000, "how many stories source: stories tells", unit="stories", minimum=20
    )
    near: int = setting(
        5, "least distance wished for from a story's fact to its use", unit="words", minimum=1
    )
    far: int = setting(1000, "greatest such distance wished for", unit="words", minimum=1)
    path: str | None = setting(None, "files: a file, a folder, a glob; hub: a dataset's id")
    field: str = setting("text", "column of the text in .jsonl, .csv, .parquet, the Hub's data")
    documents: str = setting(
        "file", "what a document is in .txt and .md files", choices=("file", "line", "paragraph")
    )
    hub_config: str | None = setting(None, "configuration of the Hub's dataset, if it has some")
    hub_split: str = setting("train", "which split of the Hub's dataset is read")
    revision: str | None = setting(None, "branch, tag or commit of the Hub's data; null: main")
    streaming: bool = setting(True, "read the Hub's data as it arrives; false: download it first")
    mix: Mapping[str, float] | None = setting(
        None,
        "weights of sources, {stories: 3, files:DIR: 1}; null: source",
        exclusiveMinimum=0,
    )
    processes: int | None = setting(
        None, "processes that cut text into tokens; null: one for each core", minimum=1
    )
    seq_len: int = setting(256, "length of a training window", unit="tokens", minimum=1)
    document_mask: bool = setting(
        False, "tokens see only their own document, whose positions begin at 0"
    )
    split: str = setting(
        "document", "what is held out: whole documents or the end", choices=("document", "tail")
    )
    val_fraction: float = setting(
        0.05, "share held out for validation", exclusiveMinimum=0, exclusiveMaximum=1
    )
    test_fraction: float = setting(
        0.05, "share held out for the last test", minimum=0, exclusiveMaximum=1
    )


@dataclass(frozen=True)
class TokenizerSettings:
    """How text becomes tokens."""

    type: str = setting("bpe", "how text is cut into tokens", choices=("bpe", "unigram", "char"))
    vocab_size: int = setting(
        2048, "size of the vocabulary; char: at most", unit="tokens", minimum=1
    )


@dataclass(frozen=True)
class TrainSettings:
    """The optimization; a step is one update of the weights."""

    init_from: str | None = setting(
        None, "a run or checkpoint whose weights and tokenizer to begin with"
    )
    max_steps: int = setting(800, "length of the run", unit="steps", minimum=1)
    micro_batch_size: int = setting(
        16, "windows that pass the model at once", unit="windows", minimum=1
    )
    grad_accum_steps: int = setting(
        1, "micro-batches summed in a step", unit="micro-batches", minimum=1
    )
    optimizer: str = setting(
        "muon", "muon: matrices by Muon, the rest by AdamW", choices=("muon", "adamw")
    )
    lr: float = setting(
        0.02, "peak learning rate of the matrices (muon) or of all (adamw)", exclusiveMinimum=0
    )
    adamw_lr: float = setting(
        3e-3, "peak rate of embeddings, norms and output under muon", exclusiveMinimum=0
    )
    weight_decay: float = setting(0.1, "decoupled weight decay of matrices", minimum=0)
    grad_clip: float = setting(1.0, "largest norm of the gradient; 0: off", minimum=0)
    schedule: str = setting(
        "cosine", "how the rate falls after the warm-up", choices=("cosine", "linear", "wsd")
    )
    warmup_steps: int = setting(40, "steps in which the rate rises", unit="steps", minimum=0)
    decay_fraction: float = setting(
        0.2, "share of max_steps in which wsd decays", exclusiveMinimum=0, maximum=1
    )
    min_lr_ratio: float = setting(0.1, "last rate as a share of the peak", minimum=0, maximum=1)
    window_schedule: str = setting(
        "constant",
        "how the window changes in training (see training/windows.py)",
        choices=("constant", "grow", "depth", "random"),
    )
    window_from: int = setting(
        16, "window that grow and depth begin with", unit="tokens", minimum=1
    )
    window_steps: int = setting(
        0, "steps until grow and depth have reached every window", unit="steps", minimum=0
    )
    window_choices: tuple[int | None, ...] | None = setting(
        None, "what random draws from at each step; null in it: full", unit="tokens", minimum=1
    )
    precision: str = setting(
        "auto", "arithmetic of the forward pass", choices=("auto", "fp32", "bf16")
    )
    compile: bool | str = setting("auto", "use torch.compile", choices=("auto", True, False))
    device: str = setting("auto", "where to train", choices=("auto", "cpu", "cuda", "mps"))
    eval_interval: int = setting(100, "steps between evaluations", unit="steps", minimum=1)
    save_interval: int = setting(100, "steps between checkpoints", unit="steps", minimum=1)
    log_interval: int = setting(10, "steps between lines of metrics", unit="steps", minimum=1)
    keep_checkpoints: int = setting(
        2, "newest checkpoints kept beside the best", unit="files", minimum=2
    )
    patience: int = setting(
        0, "evaluations without a better val_loss before stopping; 0: off", minimum=0
    )
    eval_batch_size: int = setting(16, "windows evaluated at once", unit="windows", minimum=1)


@dataclass(frozen=True)
class SampleSettings:
    """How text is drawn at each evaluation; also the defaults of scripts/sample.py."""

    prompt: str = setting("", 'text to continue; "": from the beginning')
    max_tokens: int = setting(200, "length of the sample", unit="tokens", minimum=1)
    temperature: float = setting(0.8, "divides the logits; 0: the likeliest token", minimum=0)
    top_k: int | None = setting(None, "draw from the k likeliest", unit="tokens", minimum=1)
    top_p: float = setting(
        1.0, "draw from the likeliest that sum to p; 1: off", exclusiveMinimum=0, maximum=1
    )
    min_p: float = setting(
        0.0, "drop what is below p times the likeliest; 0: off", minimum=0, exclusiveMaximum=1
    )
    repetition_penalty: float = setting(
        1.0, "weakens tokens already there; 1: off", minimum=0.01, maximum=100
    )


@dataclass(frozen=True)
class Config:
    """One run, wholly: what a YAML file and the command line amount to."""

    run_dir: str | None = setting(None, "the run's folder; null: runs/ and the config's name")
    seed: int = setting(0, "decides weights, batches and samples", minimum=0)
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)

    @property
    def folder(self) -> Path:
        """The run's folder; `load_config` has filled it in."""
        assert self.run_dir is not None
        return Path(self.run_dir)

    @property
    def tokens_per_step(self) -> int:
        """Training tokens that one process reads for one update."""
        return self.train.micro_batch_size * self.train.grad_accum_steps * self.data.seq_len

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values, as JSON and YAML know them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return plain


SECTIONS: dict[str, Any] = {f.name: f.type for f in fields(Config) if is_dataclass(f.type)}
SETTINGS: dict[str, Setting] = {known.name: known for known in declared(Config)}

Given = tuple[Any, str]  # a value, and where it was given: "line 12: "


def split_arguments(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split `[CONFIG] [section.key=value ...]` into the file, quickstart if none, and the rest."""
    if not words or ("=" in words[0] and not words[0].endswith((".yaml", ".yml"))):
        return QUICKSTART, list(words)
    return words[0], list(words[1:])


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, then `section.key=value` overrides, the later the stronger.

    Raises `UserError`, one line that names the file and every mistake in it.
    """
    path = Path(path)
    document = _document(path)
    if not isinstance(document.value, dict | None):
        raise UserError(f"{path}: holds {spell(document.value)}, sections with keys are needed")
    given = _flatten(document.value or {}, document.lines)
    mistakes = document.twice
    for text in overrides:
        try:
            name, value = _override(text)
        except UserError as error:
            mistakes.append(f"command line: {error}")
        else:
            given[name] = (value, "command line: ")
    config = _check(given, mistakes, str(path))
    return replace(config, run_dir=config.run_dir or f"runs/{path.stem}")


def config_from_dict(values: Mapping[str, Any], source: str = "config") -> Config:
    """Build a config from `to_dict`'s values, checked as strictly as a file.

    A setting that is not there has its default. Raises `UserError` whose line begins with `source`.
    """
    return _check(_flatten(values, {}), [], source)


def to_yaml(config: Config) -> str:
    """Write the whole config as YAML that loads back to an equal config."""
    return strict_yaml.dump(config.to_dict())


def model_config(config: Config, vocab_size: int) -> ModelConfig:
    """Return the architecture for a tokenizer of `vocab_size` tokens."""
    return ModelConfig(vocab_size=vocab_size, **vars(config.model))


def ignored(config: Config) -> list[str]:
    """Name the settings that differ from their default and yet do nothing, each with the reason."""
    model, data, train = config.model, config.data, config.train
    pattern = model.sliding_window
    all_full = set(pattern if isinstance(pattern, tuple) else [pattern]) == {None}
    without = "no layer has a window"
    widening = train.window_schedule in ("grow", "depth")
    sources = {name.partition(":")[0] for name in data.mix} if data.mix else {data.source}

    def unless(*wanted: str) -> Any:
        read = f"data.source is {' and '.join(sorted(sources))}, only {' and '.join(wanted)} read"
        return sources.isdisjoint(wanted) and f"{read}{'s' if len(wanted) == 1 else ''} it"

    mixed = data.mix is not None and "data.mix says what is read"
    own = sources == {"stories"} and "stories have splits of their own"
    idle = {
        "data.source": mixed,
        "data.path": mixed or unless("files", "hub"),
        "data.field": unless("files", "hub"),
        "data.documents": unless("files"),
        "data.stories": unless("stories"),
        "data.near": unless("stories"),
        "data.far": unless("stories"),
        "data.hub_config": unless("hub"),
        "data.hub_split": unless("hub"),
        "data.revision": unless("hub"),
        "data.streaming": unless("hub"),
        "data.split": own,
        "data.val_fraction": own,
        "data.test_fraction": own,
        "train.adamw_lr": train.optimizer == "adamw" and "under adamw all weights follow train.lr",
        "model.rope_factor": model.rope_scaling == "none" and "model.rope_scaling is none",
        "model.rope_original_len": model.rope_scaling != "yarn" and "only yarn reads it",
        "model.rope_theta_local": all_full and without,
        "model.attention_sinks": all_full and without,
        "train.window_from": not widening and "only train.window_schedule grow and depth read it",
        "train.window_steps": not widening and "only train.window_schedule grow and depth read it",
        "train.window_choices": train.window_schedule != "random"
        and "only train.window_schedule random reads it",
        "tokenizer.type": train.init_from and "the tokenizer is that of train.init_from",
        "tokenizer.vocab_size": train.init_from and "the tokenizer is that of train.init_from",
        "train.decay_fraction": train.schedule != "wsd" and "only train.schedule wsd reads it",
        "sample.top_k": config.sample.temperature == 0 and "sample.temperature is 0",
        "sample.top_p": config.sample.temperature == 0 and "sample.temperature is 0",
        "sample.min_p": config.sample.temperature == 0 and "sample.temperature is 0",
    }
    given = {name: value for name, (value, _) in _flatten(config.to_dict(), {}).items()}
    return [
        f"{name} has no effect: {reason}"
        for name, reason in idle.items()
        if reason and given[name] != SETTINGS[name].default
    ]


def describe() -> str:
    """List every setting with its default, unit, range and meaning, as `--help` shows it."""
    lines = []
    section = ""
    for known in SETTINGS.values():
        head, _, key = known.name.rpartition(".")
        if head != section:
            lines.append(f"\n{head}: {SECTIONS[head].__doc__}")
            section = head
        unit = f" [{known.unit}]" if known.unit else ""
        lines.append(f"  {key:18} {spell(known.default):13} {known.meaning}")
        lines.append(f"  {'':32} {known.wanted}{unit}")
    return "\n".join(lines)


def json_schema() -> dict[str, Any]:
    """Describe a config file in JSON Schema, for editors and for whoever does not run Python."""
    parts: dict[str, Any] = {name: {} for name in SETTINGS if "." not in name}
    for name, section in SECTIONS.items():
        parts[name] = {
            "description": section.__doc__,
            "type": ["object", "null"],
            "properties": {},
            "additionalProperties": False,
        }
    for known in SETTINGS.values():
        head, _, key = known.name.rpartition(".")
        (parts[head]["properties"] if head else parts)[key] = known.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Breeze run",
        "type": "object",
        "properties": parts,
        "additionalProperties": False,
    }


def _document(path: Path) -> strict_yaml.Document:
    """Read and parse a file, refusing early what is no small text."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file{_neighbour(path)}")
        if not path.is_file():  # a pipe would be waited for, a device never ends
            raise UserError(f"{path}: not a regular file, a YAML file is needed")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, that is no config")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}), save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return strict_yaml.parse(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _neighbour(path: Path) -> str:
    names = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f", did you mean {path.parent / close[0]}?" if close else ""


def _flatten(values: Mapping[str, Any], lines: Mapping[str, int]) -> dict[str, Given]:
    """Turn nested values into dotted names, each with the place where it was given."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS and isinstance(value, Mapping):
            flat.update({f"{key}.{leaf}": item for leaf, item in value.items()})
        elif key not in SECTIONS or value is not None:  # a section may be left empty
            # A dot in the file's own key is no section: quoted, it is no setting's name either.
            flat[f'"{key}"' if "." in str(key) else str(key)] = value
    return {
        name: (value, f"line {lines[name]}: " if name in lines else "")
        for name, value in flat.items()
    }


def _override(text: str) -> tuple[str, Any]:
    """Split `section.key=value`; text is taken as it is, all else is read as in the file."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{spell(text)} is no override, write section.key=value")
    known = SETTINGS.get(name)
    if known and known.is_text:  # `sample.prompt=ROMEO:` would be a mapping in YAML
        return name, (None if known.is_nullable and value == "null" else value)
    try:
        return name, strict_yaml.parse(value).value
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _check(given: Mapping[str, Given], mistakes: Sequence[str], source: str) -> Config:
    """Build the config, or raise one `UserError` with all that is wrong."""
    mistakes, wrong = list(mistakes), set()
    accepted: dict[str, Any] = {name: {} for name in SECTIONS}
    for name, (value, where) in given.items():
        try:
            if name not in SETTINGS:
                # Looking for the nearest name is slow; what is not shown need not be looked for.
                raise UserError(_unknown(name, value) if len(mistakes) < SHOWN else name)
            head, _, key = name.rpartition(".")
            (accepted[head] if head else accepted)[key] = SETTINGS[name].accept(value)
        except UserError as error:
            mistakes.append(f"{where}{error}")
            wrong.add(name)
    sections = {name: section(**accepted.pop(name)) for name, section in SECTIONS.items()}
    config = Config(**accepted, **sections)
    for names, conflict in _conflicts(config):
        # A default that stands in for a mistake would conflict for nothing.
        if wrong.isdisjoint(names):
            where = next((given[name][1] for name in names if name in given), "")
            mistakes.append(f"{where}{conflict}")
    if mistakes:
        raise UserError(_one_line(source, mistakes))
    return config


def _unknown(name: str, value: Any) -> str:
    if name in SECTIONS:
        return f"{name} is {spell(value)}, but a section: write {name}.key=value or keys beneath it"
    leaf = name.rpartition(".")[2]
    elsewhere = [known for known in SETTINGS if known.rpartition(".")[2] == leaf]
    close = elsewhere or difflib.get_close_matches(name, [*SETTINGS, *SECTIONS], n=1)
    return f"{name} is unknown" + (f", did you mean {close[0]}?" if close else "")


def _conflicts(config: Config) -> Iterator[tuple[list[str], str]]:
    """Yield what is wrong between settings that are right alone, with their names."""
    data, train = config.data, config.train
    try:
        model_config(config, config.tokenizer.vocab_size)
    except UserError as error:
        shape = [name for name in SETTINGS if name.startswith("model.")]
        named = [name for name in shape if f"{name} " in str(error)]  # these lines are shown first
        yield [*named, *shape, "tokenizer.vocab_size"], str(error)
    for name, path in (("run_dir", config.run_dir), ("data.path", data.path)):
        if path is not None and (not path or "\0" in path):
            yield [name], f"{name} is {spell(path)}, a path or null is needed"
    if data.near > data.far:
        names = ["data.near", "data.far"]
        yield names, f"data.near is {data.near}, more than data.far, {data.far}: make it smaller"
    for name in data.mix or ():
        source, colon, path = name.partition(":")
        wants_path = source in ("files", "hub")
        if source not in SOURCES or bool(path) != wants_path or bool(colon) != wants_path:
            known = "stories, shakespeare, files:PATH or hub:ID"
            given = spell(dict(data.mix or {}))
            yield ["data.mix"], f"data.mix is {given}, for {spell(name)} one of {known} is needed"
    if train.window_schedule == "random" and not train.window_choices:
        names = ["train.window_schedule", "train.window_choices"]
        yield names, "train.window_schedule random needs train.window_choices, such as [16, 64]"
    if train.window_schedule in ("grow", "depth") and not train.window_steps:
        names = ["train.window_schedule", "train.window_steps"]
        yield names, f"train.window_schedule {train.window_schedule} needs train.window_steps"
    if data.val_fraction + data.test_fraction >= 1:
        names = ["data.val_fraction", "data.test_fraction"]
        total = f"{data.val_fraction:g} + {data.test_fraction:g}"
        yield names, f"{' + '.join(names)} is {total}: nothing is left to train on"
    decay = round(train.decay_fraction * train.max_steps) if train.schedule == "wsd" else 0
    if train.warmup_steps > train.max_steps - max(decay, 1):
        names = ["train.warmup_steps", "train.max_steps", "train.decay_fraction", "train.schedule"]
        plus = f" plus {decay} steps of decay" if decay else ""
        ends = f"it must end before train.max_steps ({train.max_steps})"
        yield names, f"train.warmup_steps is {train.warmup_steps}{plus}: {ends}"


def _one_line(source: str, mistakes: Sequence[str]) -> str:
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    more = f"; and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
    line = f"{source}: {count}{'; '.join(mistakes[:SHOWN])}{more}"
    return "".join(c if c.isprintable() else "\ufffd" for c in line)  # no terminal escapes


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write configs/schema.json."""
    path = Path(__file__).with_name("schema.json")
    atomic_write(path, (json.dumps(json_schema(), indent=1) + "\n").encode())
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
