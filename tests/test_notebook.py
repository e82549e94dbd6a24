"""notebooks/breeze.ipynb is valid, is stored without outputs, and its cells run in order."""

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from arguments import locate_run
from configs.load import load_config
from errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "notebooks/breeze.ipynb"


def cells(kind: str) -> list[str]:
    """The sources of the cells of one kind, in order."""
    notebook = json.loads(FILE.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def command_lines() -> list[list[str]]:
    """The words of each command of the cells that begin with %%sh."""
    shell = [source.partition("\n")[2] for source in cells("code") if source.startswith("%%sh\n")]
    return [shlex.split(line) for source in shell for line in source.splitlines() if line]


def test_it_is_valid_and_has_no_outputs() -> None:
    """Outputs of one machine would be stored, and each run would change the file."""
    notebook: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds[1:] == ["markdown", "code"] * (len(kinds) // 2)  # one text before each cell
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_the_commands_exist() -> None:
    """An option or a setting that has another name now."""
    lines = command_lines()
    assert [line[:3] for line in lines] == [
        ["python", "train.py", "--resume"], ["python", "-m", "scripts.sample"],
        ["python", "-m", "scripts.evaluate"], ["python", "-m", "scripts.export"],
    ]  # fmt: skip
    config = load_config(ROOT / "configs/quickstart.yaml", locate_run(lines[0][3:])[1:])
    assert config.run_dir == "runs/notebook"
    for _, _, module, run, *options in lines[1:]:
        assert run == config.run_dir
        with pytest.raises(SystemExit):  # after the help
            importlib.import_module(module).main(["--help"])
        with pytest.raises(UserError, match="nowhere"):
            # The command line is read before the run is opened.
            importlib.import_module(module).main.__wrapped__(["nowhere", *options])


def test_the_imports_exist() -> None:
    """A function that moved: only the slow test would notice."""
    pattern = re.compile(r"^from (\w+\.[\w.]+) import (\w+)$", re.M)
    found = [line for source in cells("code") for line in pattern.findall(source)]
    assert ("experiments.report", "training_section") in found
    for module, name in found:
        if not module.startswith("IPython"):
            assert hasattr(importlib.import_module(module), name)


@pytest.mark.slow
def test_its_cells_run_in_order(tmp_path: Path) -> None:
    """A cell that fails on the machine of a reader, who then stops."""
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    pytest.importorskip("ipykernel")
    text = FILE.read_text(encoding="utf-8").replace("runs/notebook", str(tmp_path / "run"))
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(FILE.parent)}}
    )
    client.execute()
    outputs = ["".join(str(o) for o in c.get("outputs", [])) for c in notebook.cells]
    printed = [o for c, o in zip(notebook.cells, outputs, strict=True) if c.cell_type == "code"]
    print(*printed, sep="\n\n")
    for output, expected in zip(
        printed,
        [
            "",
            "bits per byte",
            "Once upon a time",
            "svg",
            "  full  ",
            "svg",
            "full attention",
            "Once upon",
        ],
        strict=True,
    ):
        assert expected in output
    assert (tmp_path / "run/exported/config.json").is_file()
