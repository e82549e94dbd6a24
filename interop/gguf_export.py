"""From a trained model to a folder with a GGUF file and Ollama's Modelfile, checked."""

import json
from pathlib import Path

from configs.settings import SampleSettings
from data.tokenizer import Tokenizer
from inference.trained import TrainedModel
from interop.export import refuse_failed
from interop.gguf_check import GgufCheck, check_file, check_rounded
from interop.gguf_file import (
    Architecture,
    WeightType,
    refuse,
    require_gguf,
    write_gguf,
)
from interop.huggingface import context_length
from storage import atomic_folder, atomic_write

_UNTESTED = "# Not tested with Ollama. Its llama.cpp must know the architecture of the file."


def export_gguf(
    trained: TrainedModel, out: Path, type: WeightType = "f32", arch: Architecture = "granite_swa"
) -> GgufCheck:
    """Write the folder `out` with NAME.gguf and Modelfile, and return what the check measured.

    NAME is the name of the folder. Raises `UserError`, with nothing left behind, if llama.cpp does
    not carry the model, if `out` is not empty, or if the check fails.
    """
    model, weights = trained.model.config, trained.model.state_dict()
    refuse(model, arch)  # before anything is loaded or written
    require_gguf()
    seq_len = trained.config.data.seq_len

    def write(path: Path, type: WeightType) -> None:
        write_gguf(
            model, weights, trained.tokenizer, path, type=type, arch=arch, seq_len=seq_len,
            name=out.name,
        )  # fmt: skip

    with atomic_folder(out) as folder:
        path = folder / f"{out.name}.gguf"
        f32 = path if type == "f32" else folder / "f32.gguf.part"
        write(f32, "f32")
        check, rounded = check_file(f32, trained.model), None
        if f32 != path:
            write(path, type)
            rounded = check_rounded(path, f32, type, trained)
            f32.unlink()
        found = GgufCheck(check, rounded)
        refuse_failed(found, out)
        text = modelfile(
            path.name, context_length(model, seq_len), trained.config.sample, trained.tokenizer
        )
        atomic_write(folder / "Modelfile", text.encode())
    return found


def modelfile(name: str, n_tokens: int, sample: SampleSettings, tokenizer: Tokenizer) -> str:
    """Return Ollama's Modelfile: the run's own sampling, and a template that adds nothing.

    Ollama has defaults of its own for each PARAMETER, so all are stated. The file was never
    tried, because Ollama does not run where Breeze is tested; it says so itself.
    """
    parameters = {
        "num_ctx": n_tokens,
        "num_predict": sample.max_tokens,
        "temperature": sample.temperature,
        "top_k": sample.top_k or 0,  # 0: off
        "top_p": sample.top_p,
        "min_p": sample.min_p,
        "repeat_penalty": sample.repetition_penalty,
        "stop": json.dumps(tokenizer.piece(tokenizer.eos_id)),
    }
    lines = [f"PARAMETER {key} {value}" for key, value in parameters.items()]
    return "\n".join([_UNTESTED, f"FROM ./{name}", *lines, 'TEMPLATE """{{ .Prompt }}"""', ""])
