"""Download a model of the Hugging Face Hub: OWNER/NAME -> a local folder in the cache."""

import errno
import os
import re
import sys
from pathlib import Path

from data.sources.hub import TIMEOUT, prepare_environment, reason_of
from errors import UserError
from interop.huggingface_config import read_config
from interop.safetensors_folder import pickled
from storage import cache_folder

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
SMALL = ("config.json", "tokenizer*", "special_tokens_map.json", "generation_config.json")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form OWNER/NAME."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def download(id: str, revision: str | None = None) -> tuple[Path, str]:
    """Download the files that an import reads; return their folder and the commit.

    `revision` is a branch, tag or commit. config.json is checked before the weights are downloaded.
    Files that the cache has are not downloaded again. Raises `UserError` if the Hub cannot be
    reached, has no such model, or one that Breeze cannot carry.
    """
    prepare_environment()
    from huggingface_hub import errors

    try:
        return _download(id, revision)
    except UserError:
        raise
    except errors.RevisionNotFoundError:
        raise UserError(f"{id} has no branch, tag or commit {revision}: check it") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{id} is gated: ask for access on its page of the Hub, then set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"there is no folder {id}, and the Hub has no such model, or it is private: check the "
            "spelling, or set HF_TOKEN to a token that may read it"
        ) from None
    except Exception as error:  # no address, no route, no answer, or a wrong one
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise UserError(
            f"there is no folder {id}, and the Hub at {_endpoint()} cannot be reached "
            f"({reason_of(error)}): check the name, the network and HF_ENDPOINT"
        ) from error


def _download(id: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi(_endpoint()).model_info(id, revision=revision, timeout=TIMEOUT)
    assert info.sha is not None
    names = [file.rfilename for file in info.siblings or ()]

    def fetch(*patterns: str) -> Path:
        folder = snapshot_download(
            id,
            revision=info.sha,
            allow_patterns=list(patterns),
            cache_dir=cache_folder() / "hub",
            endpoint=_endpoint(),
        )
        return Path(folder)

    read_config(fetch(*SMALL))
    if not any(name.endswith(".safetensors") for name in names):
        if any(name.startswith("pytorch_model") for name in names):
            raise pickled(id)
        raise UserError(f"{id} has no weights as safetensors: name another model")
    print(f"downloading {id} ...", file=sys.stderr)
    return fetch(*SMALL, *WEIGHTS), info.sha


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return os.environ.get("HF_ENDPOINT", ENDPOINT)
