"""Build the C++ kernels on first use, with the machine's own compiler, into the cache folder.

A library's name contains the hash of everything it depends on: its source, the headers, the
compiler, torch and the processor. So a changed source is built again, and a cache folder that
several machines share never hands one machine the code of another.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from errors import UserError
from storage import atomic_write, cache_folder, lock

SOURCES = Path(__file__).parent
# Sums may be reordered, so that they are computed in vectors. Not -ffast-math: gcc would link code
# that makes the whole process round numbers below 1e-38 to 0 as soon as the library is loaded. And
# not -ffinite-math-only: it may drop NaN, which tells that training diverged.
MATH = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
        "-freciprocal-math", "-ffp-contract=fast")  # fmt: skip
FLAGS = ("-O3", *MATH, "-std=c++20", "-fopenmp", "-fPIC", "-shared")


class BuildError(Exception):
    """Source or compiler is missing, or the compiler failed; the message is one line."""


@cache
def load(name: str, processor: str = "native") -> ctypes.CDLL:
    """Return the library of `name`.cpp, built if it is not in the cache. Raises `BuildError`.

    `processor` is the compiler's -march: by default this machine's own.
    """
    flags = (f"-march={processor}", *FLAGS)
    source = SOURCES / f"{name}.cpp"
    if not source.exists():
        raise BuildError(f"{source.name} is missing")
    compiler = _compiler()
    parts = [source, *sorted(SOURCES.glob("*.h"))]
    depends_on = [path.read_bytes() for path in parts]
    depends_on += [" ".join(flags).encode(), compiler.encode(), _compiler_version(compiler)]
    depends_on += [torch.__version__.encode(), _processor().encode()]
    digest = hashlib.sha256(b"\0".join(depends_on)).hexdigest()[:16]
    folder = cache_folder() / "native"
    folder.mkdir(exist_ok=True)
    library = folder / f"{name}-{digest}.so"
    if not library.exists():
        with lock(folder, wait=True):
            if not library.exists():  # another process may have built it while this one waited
                _build([compiler, *flags], source, library)
    return ctypes.CDLL(str(library))


def call(name: str, function: str, *arguments: Any) -> None:
    """Call a function of `name`.cpp. It returns null, or the text of an exception of C++.

    Raises `RuntimeError` with that text, and `BuildError` as `load` does.
    """
    run = getattr(load(name), function)
    run.restype = ctypes.c_char_p
    text: bytes | None = run(*arguments)
    if text is not None:
        raise RuntimeError(f"{function} in {name}.cpp failed: {text.decode()}")


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    """Return the address of a tensor's first number, as an argument of a library's function."""
    return ctypes.c_void_p(tensor.data_ptr())


@cache  # a compiler that failed is not asked again
def refusal(*names: str, bf16: bool = True) -> str | None:
    """Return why these kernels cannot run on this machine, in words; None if they can.

    Builds them, so that a run knows at its start what it will use. `bf16` kernels need the bf16
    instructions of x86-64: AVX512-BF16, with or without AMX.
    """
    if sys.platform != "linux":
        return f"native kernels are untested on {sys.platform}"
    if bf16 and not torch.cpu._is_avx512_bf16_supported():
        return "this processor has no AVX512-BF16"
    try:
        for name in names:
            load(name)
    # OSError: a folder from which no code may be run. UserError: no folder can be written.
    except (BuildError, OSError, UserError) as error:
        return str(error)
    return None


def _build(compiler: Sequence[str], source: Path, library: Path) -> None:
    """Compile with the command `compiler`; the library appears only when it is complete."""
    print(f"building {source.name} for this machine (once) ...", file=sys.stderr, flush=True)
    folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as build_folder:
        built = Path(build_folder) / "library.so"
        command = [*compiler, "-DAT_PARALLEL_OPENMP=1", f"-I{folder / 'include'}",
                   f"-I{folder / 'include/torch/csrc/api/include'}", str(source), "-o", str(built),
                   f"-L{folder / 'lib'}", "-ltorch_cpu", "-lc10",
                   f"-Wl,-rpath,{folder / 'lib'}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = (line for line in done.stderr.splitlines() if "error" in line)
            reason = next(errors, done.stderr).strip()[:200]
            raise BuildError(f"{Path(compiler[0]).name} cannot build {source.name}: {reason}")
        atomic_write(library, built.read_bytes())


@cache
def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (path := shutil.which(name)):
            return path
    raise BuildError("no C++ compiler was found (g++, clang++)")


@cache
def _compiler_version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True).stdout


@cache
def _processor() -> str:
    """Name the processor and its instructions, which `-march=native` compiles for."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *kept])
