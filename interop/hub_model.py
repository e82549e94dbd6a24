"""Download a model of the Hugging Face Hub: OWNER/NAME -> a local folder in the cache."""

import os
import re
import sys
from pathlib import Path

from data.sources.hub import TIMEOUT, prepare_environment, reason_of
from errors import UserError
from storage import cache_folder

FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*",
         "special_tokens_map.json", "generation_config.json")  # fmt: skip


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def download(id: str, revision: str | None = None) -> tuple[Path, str]:
    """Download the files that an import reads; return their folder and the commit.

    `revision` is a branch, tag or commit. Files that the cache has are not downloaded again. Raises
    `UserError` if the Hub cannot be reached or has no such model.
    """
    prepare_environment()
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.constants import ENDPOINT

    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT)
    try:
        commit = HfApi(endpoint).model_info(id, revision=revision, timeout=TIMEOUT).sha
        assert commit is not None
        print(f"downloading {id} ...", file=sys.stderr)
        folder = snapshot_download(
            id,
            revision=commit,
            allow_patterns=list(FILES),
            cache_dir=cache_folder() / "hub",
            endpoint=endpoint,
            max_workers=4,
        )
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
        raise UserError(
            f"there is no folder {id}, and the Hub at {endpoint} cannot be reached "
            f"({reason_of(error)}): check the name, the network and HF_ENDPOINT"
        ) from error
    return Path(folder), commit
