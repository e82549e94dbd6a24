"""What does each extra of pyproject.toml add to the installation? `python -m interop.extras`

An extra adds the packages that it requires, and those that they require in turn, without those of
the core. Sizes are those of the installed files; one MB is 1,000,000 bytes. Packages that several
extras share are counted in each. Of a package that is not installed neither the size nor the
requirements are known.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from errors import ArgumentParser, UserError, command

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
SHOWN = 3  # packages that are named, the largest first


@dataclass(frozen=True)
class Addition:
    """The packages that an extra adds: their sizes in bytes; None: not installed."""

    extra: str
    sizes: dict[str, int | None]

    @property
    def missing(self) -> list[str]:
        """Names of the packages that are not installed."""
        return [name for name, size in self.sizes.items() if size is None]

    @property
    def total(self) -> int:
        """Bytes of the packages that are installed."""
        return sum(size or 0 for size in self.sizes.values())

    @property
    def largest(self) -> str:
        """The largest packages, each with its size."""
        known = [(size, name) for name, size in self.sizes.items() if size is not None]
        return ", ".join(f"{name} {_mb(size)}" for size, name in sorted(known)[: -SHOWN - 1 : -1])


def additions() -> Iterator[Addition]:
    """Yield what the core needs, under the name `core`, then what each extra adds to it.

    Raises `UserError` before Python 3.11, which cannot read TOML.
    """
    if sys.version_info < (3, 11):
        raise UserError("python -m interop.extras needs Python 3.11 or newer, which reads TOML")
    import tomllib

    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    core = closure(project["dependencies"])
    yield Addition("core", {name: installed_size(name) for name in core})
    for extra, requirements in project["optional-dependencies"].items():
        names = sorted(closure(requirements) - core)
        yield Addition(extra, {name: installed_size(name) for name in names})


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the names of all packages that `requirements` bring, on this machine."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[tuple[str, str]] = set()  # (package, its extra or "")
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, wanted_by = waiting.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": wanted_by}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {(name, ""), *((name, extra) for extra in requirement.extras)} - found:
            found.add(extra)
            package = _distribution(name)
            more = (package.requires or []) if package else []
            waiting += [(Requirement(text), extra[1]) for text in more]
    return {name for name, _ in found}


def installed_size(name: str) -> int | None:
    """Return the bytes of a package's files; None if it is not installed."""
    package = _distribution(name)
    if package is None:
        return None
    paths = (Path(str(file.locate())) for file in package.files or [])
    return sum(path.stat().st_size for path in paths if path.is_file())


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def table(found: Iterable[Addition]) -> str:
    """Return the additions as a table in Markdown."""
    lines = ["| extra | packages | MB | the largest | not installed |", "|---|---:|---:|---|---|"]
    for each in found:
        n_installed = len(each.sizes) - len(each.missing)
        missing = ", ".join(each.missing)
        cells = (each.extra, str(n_installed), _mb(each.total), each.largest, missing)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = ArgumentParser(
        prog="python -m interop.extras",
        description="Measure what each extra of pyproject.toml adds to the installation.",
        epilog="example: python -m interop.extras",
    )
    parser.parse_args(argv)
    print(table(additions()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
