"""The catalogue of models: where a checkpoint lies on disk, and how a missing one is downloaded and verified.

The Studio panel imports this module for the catalogue: torch is imported where it is used.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import types
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import ContentTooShortError, HTTPError, URLError

logger = logging.getLogger(__name__)

MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"
MIRROR_VARIABLE = "SAM2_CHECKPOINT_MIRROR"

_HOST = "https://dl.fbaipublicfiles.com/segment_anything_2"
_NETWORK_TIMEOUT = 60  # seconds without a single byte, not for the whole download
_MOST_BYTES = 2 << 30  # of a checkpoint whose size is not known

Progress = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in total, or None where the server does not say)."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be had or cannot be used; the message tells the user what to do about it."""


@dataclass(frozen=True)
class Checkpoint:
    """One model that `model_name` accepts."""

    model_name: str
    config: str
    """Name inside the sam2 package, or the absolute path of a YAML file."""
    url: str | None
    """None for the model that comes with the plugin."""
    sha256: str | None
    bytes: int | None
    """None where the size is not known."""
    parameters_millions: float


CATALOGUE: dict[str, Checkpoint] = {
    checkpoint.model_name: checkpoint
    for checkpoint in (
        Checkpoint(
            "sam2_hiera_tiny",
            "configs/sam2/sam2_hiera_t.yaml",
            f"{_HOST}/072824/sam2_hiera_tiny.pt",
            "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
            155906050,
            38.9,
        ),
        Checkpoint(
            "sam2_hiera_small",
            "configs/sam2/sam2_hiera_s.yaml",
            f"{_HOST}/072824/sam2_hiera_small.pt",
            "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
            184309650,
            46.0,
        ),
        Checkpoint(
            "sam2_hiera_base_plus",
            "configs/sam2/sam2_hiera_b+.yaml",
            f"{_HOST}/072824/sam2_hiera_base_plus.pt",
            "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
            None,
            80.8,
        ),
        Checkpoint(
            "sam2_hiera_large",
            "configs/sam2/sam2_hiera_l.yaml",
            f"{_HOST}/072824/sam2_hiera_large.pt",
            "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
            897952466,
            224.4,
        ),
        Checkpoint(
            "sam2.1_hiera_tiny",
            "configs/sam2.1/sam2.1_hiera_t.yaml",
            f"{_HOST}/092824/sam2.1_hiera_tiny.pt",
            "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            156008466,
            38.9,
        ),
        Checkpoint(
            "sam2.1_hiera_small",
            "configs/sam2.1/sam2.1_hiera_s.yaml",
            f"{_HOST}/092824/sam2.1_hiera_small.pt",
            "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            184416285,
            46.0,
        ),
        Checkpoint(
            "sam2.1_hiera_base_plus",
            "configs/sam2.1/sam2.1_hiera_b+.yaml",
            f"{_HOST}/092824/sam2.1_hiera_base_plus.pt",
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            323606802,
            80.8,
        ),
        Checkpoint(
            "sam2.1_hiera_large",
            "configs/sam2.1/sam2.1_hiera_l.yaml",
            f"{_HOST}/092824/sam2.1_hiera_large.pt",
            "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
            898083611,
            224.4,
        ),
        # Versioned with the code, so there is nothing to verify.
        Checkpoint("sam2_hiera_nano", str(MODELS_FOLDER / "sam2_hiera_nano.yaml"), None, None, None, 3.9),
    )
}
MODEL_NAMES: tuple[str, ...] = tuple(CATALOGUE)


def shown(path: Path | str) -> str:
    """A path, or what a server said, as it stands in an error message: cut where it is long, what does not print escaped.

    Ikomia ends a message at a NUL.
    """
    text = str(path)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 300 else f"{text[:140]}…{text[-140:]}"


def fault_of_file(path: Path) -> str:
    """Why `path` cannot be read as a file, as the end of a sentence that begins with it; empty if it can."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a NUL in it
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "is a folder"
    if not stat.S_ISREG(mode):  # a pipe or a device, of which reading may never end
        return "is no ordinary file"
    return "" if os.access(path, os.R_OK) else "may not be read"


def catalogue_entry(model_name: str) -> Checkpoint:
    """The catalogue's entry; ValueError for an unknown name."""
    try:
        return CATALOGUE[model_name]
    except KeyError:
        accepted = ", ".join(MODEL_NAMES)
        raise ValueError(f"model_name {model_name!r} is unknown. Accepted: {accepted}.") from None


def is_of_the_catalogue(path: Path) -> bool:
    """Whether a file lies where a checkpoint of the catalogue is looked for, as opposed to one's own."""
    names = {f"{name}.pt" for name in MODEL_NAMES}
    return path.name in names and path.absolute().parent in (MODELS_FOLDER, _hub_folder())


def find_checkpoint(model_name: str) -> Path | None:
    """The checkpoint of `model_name` on this machine, or None.

    Looked for as `models/<model_name>.pt` in the plugin folder, where the published plugin (1.1.0) downloads
    to, then in the torch hub cache, which survives a plugin update. The published plugin keeps partial
    downloads, so a file that is not whole is passed over with a warning. ValueError for an unknown name.
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

    The environment variable SAM2_CHECKPOINT_MIRROR replaces Meta's host: an http, https or file URL under
    which `072824/…` and `092824/…` lie. A file appears under its name only when all of it has arrived with
    the right SHA-256. Processes that want the same file wait for one another.

    Args:
        model_name: a name of the catalogue.
        on_progress: called after every chunk of a download, and, with (0, None), again and again while another
            process downloads the same file. It may raise to cancel: nothing partial is left,
            and the exception reaches the caller as it is, unless it is an OSError, RuntimeError or
            ValueError, which count as failures of the download.

    Raises:
        ValueError: unknown name.
        CheckpointError: the download failed; the message says why and how to go on without it.
    """
    found = find_checkpoint(model_name)
    if found is not None:
        return found
    checkpoint = catalogue_entry(model_name)
    if checkpoint.url is None:
        raise CheckpointError(
            f"{MODELS_FOLDER / model_name}.pt, which comes with the plugin, is missing or damaged. "
            "Install the plugin again."
        )
    host = os.environ.get(MIRROR_VARIABLE, "").strip().rstrip("/") or _HOST
    url = host + checkpoint.url.removeprefix(_HOST)
    target = _hub_path(checkpoint.url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(target, on_progress):
            found = find_checkpoint(model_name)  # another process may have brought it meanwhile
            if found is not None:
                return found
            if target.is_dir():  # what is moved there would land inside it
                raise OSError("there is a folder in its place")
            logger.info("Downloading %s to %s", url, target)
            _remove_partial_files(target)
            try:
                _download(url, target, checkpoint, on_progress)
            finally:
                _remove_partial_files(target)
            if not _is_whole(target, checkpoint):
                target.unlink()
                raise OSError("what arrived is not a checkpoint")
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise CheckpointError(
            f"The checkpoint of {model_name} could not be downloaded: {_reason(error)}.\n"
            f"URL: {url} (the environment variable {MIRROR_VARIABLE} can name another host).\n"
            f"To put it there by hand, save it as {target} (SHA-256 {checkpoint.sha256}).\n"
            "model_name 'sam2_hiera_nano' comes with the plugin and works offline."
        ) from error
    return target


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
    import torch.hub

    return Path(torch.hub.get_dir()).absolute() / "checkpoints"


@contextmanager
def _one_process_at_a_time(target: Path, on_wait: Progress | None) -> Iterator[None]:
    """Hold the lock on `target`, which the system lets go of when a process is killed. Its file goes with it."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process is downloading %s: waiting for it.", target)
        while not lock.is_locked:
            if on_wait is not None:
                on_wait(0, None)
            with suppress(Timeout):
                lock.acquire(timeout=0.2)
    try:
        yield
    finally:
        # While the lock is held, so that it is this one's. Who has just opened the file and gets the lock of a file that is
        # no more finds the checkpoint in place. Windows removes no open file: there filelock does it.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def _remove_partial_files(target: Path) -> None:
    """Remove what a killed download of `target` left. Only under the lock: nobody else writes one then."""
    for partial in target.parent.glob(f"{target.name}.*.partial"):
        partial.unlink(missing_ok=True)


def _download(url: str, target: Path, checkpoint: Checkpoint, on_progress: Progress | None) -> None:
    """torch.hub.download_url_to_file with what it lacks: a network timeout, progress, word of a short or an endless read.

    Its own code runs over a copy of its module's names in which `urlopen` is ours. The other ways to a
    timeout, socket.setdefaulttimeout and a patched torch.hub, would reach into every other thread of the
    process.
    """
    import torch.hub

    def open_with_timeout(request: urllib.request.Request) -> object:
        response = urllib.request.urlopen(request, timeout=_NETWORK_TIMEOUT)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if total is None:
            del response.headers["Content-Length"]  # torch.hub fails at one that is no number
        most = checkpoint.bytes or _MOST_BYTES
        if total is not None and total > most:
            raise OSError(f"the server offers {total} bytes, more than the {most} that the checkpoint can have")
        done = 0
        read = getattr(
            response, "read1", response.read
        )  # what has arrived, not only full chunks: a slow host can be left

        def counted_read(size: int) -> bytes:
            nonlocal done
            chunk = read(size)
            done += len(chunk)
            if not chunk and total is not None and done < total:
                raise ContentTooShortError(f"the connection ended after {done} of {total} bytes", None)
            if done > most:
                raise OSError(f"the server sends more than the {most} bytes that the checkpoint can have")
            if chunk and on_progress is not None:
                on_progress(done, total)
            return chunk

        response.read = counted_read
        return response

    original = torch.hub.download_url_to_file
    names = {**original.__globals__, "urlopen": open_with_timeout}
    download = types.FunctionType(original.__code__, names, argdefs=original.__defaults__)
    # A bar is for a person at a terminal; without one, stderr may be a log file or (Studio) not exist at all.
    download(url, str(target), hash_prefix=checkpoint.sha256, progress=sys.stderr is not None and sys.stderr.isatty())


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answered {error.code} ({shown(' '.join(str(error.reason).split()))})"
    text = str(error.reason if isinstance(error, URLError) else error) or type(error).__name__
    return shown(" ".join(text.split()))  # some have several lines, some what a server sent in place of HTTP
