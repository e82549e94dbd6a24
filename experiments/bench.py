"""How fast is it, and against what? `python -m experiments.bench NAME`, one of the benchmarks.

This file reads the command line and writes the results. What is measured, and how, is in
experiments/benchmarks/; docs/speed.md says how to read the tables.
"""

import argparse
import sys
from collections.abc import Sequence

from errors import ArgumentParser, UserError, command
from experiments.benchmarks import attention, decode, every, learn, lora, prompt, start, train
from experiments.benchmarks.benchmark import Benchmark, WrongResult
from experiments.benchmarks.picture import add_png, refuse_png, write_png
from experiments.result import add_json, write_json

BENCHMARKS: dict[str, Benchmark] = {
    "attention": attention,
    "train": train,
    "lora": lora,
    "decode": decode,
    "prompt": prompt,
    "learn": learn,
    "start": start,
    "all": every,
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write JSON and PNG; return 1 if a result is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and words[0] in BENCHMARKS else None
    if name is None:
        _parser().parse_args(words)  # prints --help, and refuses another word
        raise UserError(f"say what to measure: {', '.join(BENCHMARKS)}; see --help")
    benchmark = BENCHMARKS[name]
    arguments = _parser_of(name).parse_args(words)
    refuse_png(arguments.png)
    benchmark.refuse(arguments)
    try:
        result = benchmark.measure(arguments)
    except WrongResult as wrong:  # what computes something else has no speed
        print(f"wrong result: {wrong}", file=sys.stderr)
        return 1
    write_json(arguments.json, result)
    if arguments.png is not None:
        write_png(arguments.png, benchmark.panels(result))
    print(*benchmark.report(result), sep="\n")
    return 0


def _parser() -> ArgumentParser:
    names = "\n".join(f"  {name:10} {benchmark.SHOWS}" for name, benchmark in BENCHMARKS.items())
    parser = ArgumentParser(
        prog="python -m experiments.bench",
        description=f"Measure speed and memory. NAME is one of:\n\n{names}",
        epilog="`python -m experiments.bench NAME --help` lists the options of each.\n\n"
        f"example: python -m experiments.bench {train.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=BENCHMARKS, help="what to measure")
    return parser


def _parser_of(name: str) -> ArgumentParser:
    benchmark = BENCHMARKS[name]
    parser = ArgumentParser(
        prog=f"python -m experiments.bench {name}",
        description=benchmark.SHOWS,
        epilog=f"example: python -m experiments.bench {benchmark.EXAMPLE}",
    )
    benchmark.add_options(parser)
    add_json(parser)
    add_png(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
