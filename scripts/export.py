"""Write a trained model for other programs: `python -m scripts.export RUN --to hf --out FOLDER`

    hf     a folder that `transformers` opens: AutoModelForCausalLM, AutoTokenizer, pipeline

Each export ends with a check: the other program computes the same logits beyond the window, and
not those of full attention. What a format cannot carry is refused.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from arguments import add_run, open_run
from errors import ArgumentParser, command, fields_named

FORMATS = ("hf",)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the files and print what the check found."""
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out)
    trained = open_run(arguments)
    with fields_named({"out": "--out"}):
        from interop.export import export_huggingface

        check = export_huggingface(trained, out)
    print(check)
    for path in sorted(out.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.export",
        description="Write a trained model for other programs, and check what was written.",
        epilog="example: python -m scripts.export runs/quickstart --to hf --out exported",
    )
    add_run(parser)
    add = parser.add_argument
    add("--to", choices=FORMATS, required=True, help="the format")
    add("--out", required=True, metavar="FOLDER", help="a folder that is empty or does not exist")
    return parser


if __name__ == "__main__":
    sys.exit(main())
