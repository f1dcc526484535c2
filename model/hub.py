"""Checkpoints from the Hugging Face hub, by name. The one place that reaches the network, when a hub model is asked for."""

from pathlib import Path

from model.tokenizer_files import FILES as TOKENIZER_FILES
from model.weights import converting_command

# A snapshot's other files, pickles and other frameworks' weights, are many times larger and never used.
FILES = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES]


class HubError(Exception):
    """The hub did not give the model; the message says why and what to do."""


class NotFetched(Exception):
    """The model is not in the hub's cache, whose directory is `cache`."""

    def __init__(self, cache: Path) -> None:
        super().__init__(f"not in {cache}")
        self.cache = cache


def cached(name: str) -> Path:
    """What `download` would give, without a look at the network. Raises NotFetched, and HubError where the library is missing."""
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise _no_library(name) from error
    cache = Path(constants.HF_HUB_CACHE)
    try:
        directory = Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        raise NotFetched(cache) from None
    if not any(directory.glob("model*.safetensors")):
        raise NotFetched(cache)
    return directory


def _no_library(name: str) -> HubError:
    return HubError(
        f"{name} is no directory here, and to look for it on the hub huggingface_hub is needed: pip install huggingface_hub"
    )


def download(name: str) -> Path:
    """The directory with the model's files; those in the hub's cache are not fetched again. A progress bar shows on a terminal."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise _no_library(name) from error
    try:
        directory = Path(snapshot_download(name, allow_patterns=FILES))
    except GatedRepoError as error:
        raise HubError(f"the hub gives {name} to approved users alone; ask for access there and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{name} is neither a directory here nor a model on the hub; if it is a private one, set HF_TOKEN"
        ) from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{name} is no directory here and not in the hub's cache, and the hub cannot be reached: "
            "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or give a directory"
        ) from error
    except Exception as error:  # Which other types there are depends on the HTTP client of the installed version.
        raise HubError(f"{name} could not be downloaded from the hub: {error}; try again or give a directory") from error
    if not any(directory.glob("model*.safetensors")):
        raise HubError(
            f"the hub has no safetensors of {name}; its weights may be a pickle, which can run any code and is never opened here; "
            f"if you trust it, convert it and serve the directory: {converting_command(name, name.rpartition('/')[2])}"
        )
    return directory
