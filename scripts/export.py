"""Write a trained model for other programs: `python -m scripts.export RUN --to hf --out FOLDER`

    hf     a folder that `transformers` opens: AutoModelForCausalLM, AutoTokenizer, pipeline
    gguf   a file for llama.cpp, and a Modelfile for Ollama
    peft   the adapters of a run with LoRA, which `peft` loads onto the exported base model

Each export ends with a check: the other program computes the same logits beyond the window, and
not those of full attention. What a format cannot carry is refused.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import add_run, open_run
from errors import ArgumentParser, UserError, command, fields_named

if TYPE_CHECKING:  # these import torch
    from interop.check import Check
    from interop.gguf_check import GgufCheck
    from interop.gguf_file import Architecture, WeightType

FORMATS = ("hf", "gguf", "peft")
TYPES = ("f32", "f16", "bf16", "q8_0")
ARCHITECTURES = ("granite_swa", "llama")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the files and print what the check found."""
    arguments = _parser().parse_args(argv)
    for option in ("type", "arch"):
        if getattr(arguments, option) is not None and arguments.to != "gguf":
            raise UserError(f"--{option} belongs to --to gguf: leave it out")
    out = Path(arguments.out)
    with fields_named({"out": "--out"}):
        print(_export(arguments, out))
    for path in sorted(out.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


def _export(arguments: Namespace, out: Path) -> "Check | GgufCheck":
    if arguments.to == "peft":
        from training.run_folder import find

        checkpoint = find(Path(arguments.run), arguments.checkpoint)
        from interop.peft import export_adapter

        return export_adapter(checkpoint, out)
    trained = open_run(arguments)
    if arguments.to == "gguf":
        from interop.gguf_export import export_gguf

        weights: WeightType = arguments.type or "f32"
        target: Architecture = arguments.arch or "granite_swa"
        return export_gguf(trained, out, weights, target)
    from interop.export import export_huggingface

    return export_huggingface(trained, out)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.export",
        description="Write a trained model for other programs, and check what was written.",
        epilog="example: python -m scripts.export runs/quickstart --to hf --out runs/exported",
    )
    add_run(parser)
    add = parser.add_argument
    add("--to", choices=FORMATS, required=True, help="the format")
    add("--out", required=True, metavar="FOLDER", help="a folder that is empty or does not exist")
    add("--type", choices=TYPES, help="gguf: number format of the matrices (f32)")
    add(
        "--arch",
        choices=ARCHITECTURES,
        help="gguf: granite_swa, which keeps windows; llama, for models without (granite_swa)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
