"""Import a model of others: `python -m scripts.import_hf FOLDER --out runs/NAME`

FOLDER is a folder as `save_pretrained` of transformers writes it, or OWNER/NAME of a model on the
Hugging Face Hub. The new run opens in every script that needs no text of a training, and new runs
start from it (train.init_from). What Breeze cannot carry is refused.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from errors import ArgumentParser, UserError, command, fields_named

if TYPE_CHECKING:  # torch is imported only after config.json was read
    from interop.huggingface_import import ForeignModel


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the run, print what it is and what the comparison with the original found."""
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not an empty folder: choose another name")
    folder, origin = _locate(arguments.folder, arguments.revision)
    from interop.huggingface_config import read_config

    if read_config(folder).ignores_window:
        print(
            "note: use_sliding_window is false, so all layers have full attention; transformers "
            "itself does not read this key",
            file=sys.stderr,
        )
    from interop.huggingface_import import open_folder
    from interop.import_run import import_model

    foreign = open_folder(folder)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out {out} would be within a file: choose another name") from None
    with fields_named({"out": "--out"}):
        verdict = import_model(foreign, out, origin)
    print(_description(foreign, origin))
    print(f"{verdict}\n\nsample       python -m scripts.sample {out} --prompt TEXT")
    print(f"fine-tune    python train.py {out} train.init_from={out} data.path=TEXT.txt "
          f"run_dir={out}-tuned")  # fmt: skip
    return 0


def _locate(name: str, revision: str | None) -> tuple[Path, str]:
    """Return the local folder of a model, and where it comes from; downloads it if needed."""
    folder = Path(name).expanduser()
    if folder.exists():
        if revision is not None:
            raise UserError(f"--revision is for models of the Hub, but {name} is a local path")
        return folder, name
    from interop.hub_model import download, is_hub_id

    if not is_hub_id(name):
        raise UserError(f"there is no folder {name}: name one, or OWNER/NAME of a model on the Hub")
    folder, commit = download(name, revision)
    return folder, f"{name}@{commit}"


def _description(foreign: "ForeignModel", origin: str) -> str:
    """Return a table of one fact per line."""
    shape = foreign.model
    windows = [
        f"{shape.windows.count(window)} x {window or 'full'}"
        for window in dict.fromkeys(shape.windows)
    ]
    rows = {
        "model": f"{foreign.config.architecture} of {origin}",
        "size": f"{sum(shape.parameter_counts().values()):,} parameters, {shape.n_layers} layers",
        "windows": ", ".join(windows),
        "vocabulary": f"{shape.vocab_size:,} tokens",
        "tokenizer": _tokenizer_kind(foreign),
    }
    return "\n".join(f"{name:12} {text}" for name, text in rows.items())


def _tokenizer_kind(foreign: "ForeignModel") -> str:
    tokenizer = foreign.text_tokenizer
    kind = "SentencePiece" if tokenizer.file_name == "tokenizer.model" else "Hugging Face's"
    return f"{tokenizer.file_name} ({kind})"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.import_hf",
        description="Make a run of a model in a Hugging Face folder: Mistral, Ministral, Llama.",
        epilog="example: python -m scripts.import_hf downloads/tiny-mistral --out runs/imported",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="a local folder, or OWNER/NAME of a model on the Hub")
    add("--out", required=True, metavar="RUN", help="a folder that is empty or does not exist")
    add("--revision", metavar="NAME", help="branch, tag or commit on the Hub (main)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
