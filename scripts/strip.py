"""Write a checkpoint without the optimizer's moments: `python -m scripts.strip RUN --out FILE`

The file has the weights, the tokenizer and the config. It can be sampled and evaluated, and new
runs can start from it (train.init_from). It cannot be resumed, because that needs the moments.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from arguments import add_run
from errors import ArgumentParser, UserError, command
from storage import atomic_write
from training.run_folder import find


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the file and print both sizes."""
    parser = ArgumentParser(
        prog="python -m scripts.strip",
        description="Write a smaller checkpoint, without the optimizer's moments: for use, not for "
        "--resume.",
        epilog="example: python -m scripts.strip runs/quickstart --out quickstart.safetensors",
    )
    add_run(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="a new .safetensors file")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: the name must end in .safetensors")
    if out.exists():
        raise UserError(f"--out {out} exists: choose another name")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")

    checkpoint = find(Path(arguments.run), arguments.checkpoint)
    atomic_write(out, checkpoint.without_moments())
    before, after = checkpoint.path.stat().st_size, out.stat().st_size
    print(f"{checkpoint.path} ({before / 1e6:.1f} MB) -> {out} ({after / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
