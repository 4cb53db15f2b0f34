"""Where the checkpoint of a model lies on this machine; one that is missing is downloaded.

Imported where torch is not: torch comes in where it is used.
"""

from __future__ import annotations

import logging
import os
import sys
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from .catalogue import CATALOGUE, HOST, MODEL_NAMES, MODELS_FOLDER, Checkpoint, catalogue_entry
from .downloads import download, without_password
from .locks import one_at_a_time
from .messages import fault_of_file, shown
from .progress import Progress

__all__ = [
    "CATALOGUE",
    "MODELS_FOLDER",
    "MODEL_NAMES",
    "CheckpointError",
    "catalogue_entry",
    "checkpoint_state",
    "fetch_checkpoint",
    "find_checkpoint",
    "is_of_the_catalogue",
]

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "SAM2_CHECKPOINT_MIRROR"
MAX_BYTES = 2 << 30  # of a checkpoint whose size is not known


class CheckpointError(RuntimeError):
    """A checkpoint cannot be had or cannot be used; the message tells the user what to do about it."""


def is_of_the_catalogue(path: Path) -> bool:
    """Whether a file lies where a checkpoint of the catalogue is looked for, as opposed to one's own."""
    names = {f"{name}.pt" for name in MODEL_NAMES}
    return path.name in names and path.absolute().parent in (MODELS_FOLDER, _hub_folder())


def find_checkpoint(model_name: str) -> Path | None:
    """The checkpoint of `model_name` on this machine, or None.

    Looked for as `models/<model_name>.pt` in the plugin folder, where version 1.1.0 downloads to, then in the torch hub cache,
    which survives an update. Version 1.1.0 keeps partial downloads, so a file that is not whole is passed over with a warning.
    ValueError for an unknown name.
    """
    checkpoint = catalogue_entry(model_name)
    bundled = MODELS_FOLDER / f"{model_name}.pt"
    if not fault_of_file(bundled) and _is_whole(bundled, checkpoint):
        return bundled
    if checkpoint.url is None:
        return None
    cached = _hub_path(checkpoint.url)
    return cached if not fault_of_file(cached) and _is_whole(cached, checkpoint) else None


def checkpoint_state(model_name: str) -> str:
    """What choosing `model_name` will cost: "bundled", "on disk" or "to download"."""
    if catalogue_entry(model_name).url is None:
        return "bundled"
    return "to download" if find_checkpoint(model_name) is None else "on disk"


def fetch_checkpoint(model_name: str, on_progress: Progress | None = None) -> Path:
    """The path of the checkpoint of `model_name`, downloaded to the torch hub cache if this machine has none.

    The environment variable SAM2_CHECKPOINT_MIRROR replaces Meta's host: an http, https or file URL under which the files lie,
    in Meta's folders (`072824/…`, `092824/…`) or, asked for where these are not there, without folders. A file appears under
    its name only when all of it has arrived with the right SHA-256. Processes that want the same file wait for one another.

    Args:
        model_name: a name of the catalogue.
        on_progress: called with the bytes after every chunk of a download, and, with (0, None), again and again while another
            process downloads the same file. It may raise to cancel: nothing partial is left, and the exception reaches the
            caller as it is, unless it is an OSError, RuntimeError or ValueError, which count as failures of the download.

    Raises:
        ValueError: unknown name.
        CheckpointError: the download failed; the message says why and how to go on without it.
    """
    found = find_checkpoint(model_name)
    if found is not None:
        return found
    checkpoint = catalogue_entry(model_name)
    if checkpoint.url is None or checkpoint.sha256 is None:
        raise CheckpointError(
            f"{MODELS_FOLDER / model_name}.pt, which comes with the plugin, is missing or damaged. "
            "Install the plugin again."
        )
    urls, target = _urls(checkpoint.url), _hub_path(checkpoint.url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(target, on_progress):
            found = find_checkpoint(model_name)  # another process may have brought it meanwhile
            if found is not None:
                return found
            if target.is_dir():
                raise OSError("there is a folder in its place")
            for url in urls:
                logger.info("Downloading %s to %s", without_password(url), target)
                try:
                    download(url, target, checkpoint.sha256, checkpoint.bytes or MAX_BYTES, on_progress)
                    break
                except URLError as error:
                    if url == urls[-1] or not _is_not_there(error):
                        raise
    except (OSError, RuntimeError, ValueError, HTTPException) as error:  # RuntimeError: no locks on this disk
        raise CheckpointError(
            f"The checkpoint of {model_name} could not be downloaded: {_reason(error)}.\n"
            f"URL: {' or '.join(map(without_password, urls))} (the environment variable {MIRROR_VARIABLE} can name another "
            "host).\n"
            f"To put it there by hand, save it as {target} (SHA-256 {checkpoint.sha256}).\n"
            "model_name 'sam2_hiera_nano' comes with the plugin and works offline."
        ) from error
    return target


def _urls(url: str) -> list[str]:
    """Where the file of Meta's `url` is asked for, one after the other."""
    mirror = os.environ.get(MIRROR_VARIABLE, "").strip().rstrip("/")
    return [mirror + url.removeprefix(HOST), f"{mirror}/{url.rpartition('/')[2]}"] if mirror else [url]


def _is_not_there(error: URLError) -> bool:
    # 403 is S3's answer too, to those who may not list what there is.
    return isinstance(error.reason, FileNotFoundError) or (
        isinstance(error, HTTPError) and error.code in (403, 404, 410)
    )


def _is_whole(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether it has the released size, where known, and is a zip archive, whose directory is at its end."""
    size = path.stat().st_size
    if checkpoint.bytes not in (None, size):
        problem = f"has {size} bytes instead of {checkpoint.bytes}"
    elif not zipfile.is_zipfile(path):
        problem = "is not a complete zip archive, which every torch.save file is"
    else:
        return True
    logger.warning("%s %s, as a partial download does: it is passed over.", path, problem)
    return False


def _hub_path(url: str) -> Path:
    return _hub_folder() / url.rpartition("/")[2]


def _hub_folder() -> Path:
    # torch takes seconds to import; only where it is imported, torch.hub.set_dir may have told it another folder.
    if "torch" in sys.modules:
        import torch.hub

        folder = torch.hub.get_dir()
    else:  # by the same rule
        cache = os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch")
        folder = os.path.join(os.path.expanduser(os.getenv("TORCH_HOME", cache)), "hub")
    return Path(folder).absolute() / "checkpoints"


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answered {error.code} ({shown(' '.join(str(error.reason).split()))})"
    text = str(error.reason if isinstance(error, URLError) else error) or type(error).__name__
    return shown(" ".join(text.split()))  # some have several lines, some what a server sent in place of HTTP
