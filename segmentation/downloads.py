"""A file from the network: whole and verified under its name, or not there at all."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import urllib.request
from base64 import b64encode
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import unquote

from .progress import Progress, is_unseen

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT = 60  # seconds without a single byte, not for the whole download
_CHUNK_BYTES = 1 << 17
_USER = re.compile(r"^(https?://)([^/?#]*)@", re.IGNORECASE)


def download(url: str, target: Path, sha256: str, max_bytes: int, on_progress: Progress | None = None) -> None:
    """Bring the file at `url` to `target`, under whose name it appears when all of it has arrived.

    Only inside :func:`.one_at_a_time`: partial files of others are removed.

    Args:
        url: http, https or file; a user and a password before the host, https://user:password@host/…, are sent to it alone.
        target: a file; its folder is there.
        sha256: that the file must have, in hexadecimal digits.
        max_bytes: more than these are not accepted.
        on_progress: called with the bytes after every chunk.

    Raises:
        OSError, ValueError, http.client.HTTPException: there is no such file, the network or the disk fails, or what arrives
            is another file.
    """
    _remove_partial_files(target)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        arrived = _stream(url, partial, max_bytes, on_progress)
        if arrived != sha256:
            raise OSError(f"what arrived is another file: its SHA-256 is {arrived}")
        os.replace(partial, target)
    finally:
        _remove_partial_files(target)


def _stream(url: str, path: Path, max_bytes: int, on_progress: Progress | None) -> str:
    """Write what is at `url` to `path`; its SHA-256."""
    from tqdm import tqdm

    digest, done = hashlib.sha256(), 0
    request = urllib.request.Request(without_password(url), headers={"User-Agent": "infer_segment_anything_2"})
    if found := _USER.match(url):
        user, _, password = found[2].partition(":")
        both = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {both}")
    with urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if total is not None and total > max_bytes:
            raise OSError(f"the server offers {total} bytes, more than the {max_bytes} that the checkpoint can have")
        seen = nullcontext() if is_unseen() else tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024)
        with seen as bar:
            # read1 gives what has arrived, not only full chunks: the download from a slow server can be stopped, too.
            while chunk := response.read1(_CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if done > max_bytes:
                    raise OSError(f"the server sends more than the {max_bytes} bytes that the checkpoint can have")
                if bar is not None:
                    bar.update(len(chunk))
                if on_progress is not None:
                    on_progress(done, total)
        if total is not None and done < total:
            raise OSError(f"the connection ended after {done} of {total} bytes")
    return digest.hexdigest()


def without_password(url: str) -> str:
    """`url` as it may be shown: without the user and the password before its host."""
    return _USER.sub(r"\1", url)


def _remove_partial_files(target: Path) -> None:
    """Remove what this download, or a killed one, left."""
    for partial in target.parent.glob(f"{target.name}.*.partial"):
        partial.unlink(missing_ok=True)
