"""Finding and downloading checkpoints, against a real HTTP server that plays Meta's host."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from infer_segment_anything_2.segmentation import checkpoints
from infer_segment_anything_2.segmentation.checkpoints import (
    CheckpointError,
    fetch_checkpoint,
    find_checkpoint,
)
from infer_segment_anything_2.segmentation.model_loader import read_config

MODEL = "sam2_hiera_tiny"
FILE = "sam2_hiera_tiny.pt"


def zip_of(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", os.urandom(size))
    return buffer.getvalue()


PAYLOAD = zip_of(600_000)  # several chunks of torch.hub's 128 KiB
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


@dataclass
class Host:
    """What the server does with every request; `pause` stops it half-way through the body until it is set."""

    url: str = ""
    status: int = 200
    body: bytes = PAYLOAD
    declared: int | None = len(PAYLOAD)
    pause: threading.Event | None = None
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    state = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            self.send_response(state.status)
            if state.declared is not None:
                self.send_header("Content-Length", str(state.declared))
            self.end_headers()
            half = len(state.body) // 2
            self.wfile.write(state.body[:half])
            if state.pause is not None:
                state.pause.wait(300)
            self.wfile.write(state.body[half:])

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:  # clients that were killed or gave up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/mirror"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", state.url + "/")
    yield state
    if state.pause is not None:
        state.pause.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache (not yet a folder) and an empty models folder; MODEL's file is PAYLOAD."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(checkpoints, "MODELS_FOLDER", tmp_path / "models")
    entry = replace(checkpoints.CATALOGUE[MODEL], sha256=SHA256, bytes=len(PAYLOAD))
    monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, entry)
    return tmp_path / "torch/hub/checkpoints"


def place(path: Path, content: bytes = PAYLOAD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def checkpoint_files(folder: Path) -> list[str]:
    """Everything in the folder but lock files."""
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock") if folder.is_dir() else []


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300  # a crowded machine takes its time to import torch
    while not condition():
        assert time.monotonic() < deadline, "waited for five minutes"
        time.sleep(0.02)


def start_fetching_process(tmp_path: Path) -> subprocess.Popen[str]:
    """A separate process that fetches MODEL into the same cache, prints its path, and logs to stderr."""
    script = f"""
import logging
from dataclasses import replace
from pathlib import Path
from infer_segment_anything_2.segmentation import checkpoints
logging.basicConfig(level=logging.INFO)
checkpoints.MODELS_FOLDER = Path({str(tmp_path / "models")!r})
entry = checkpoints.CATALOGUE[{MODEL!r}]
checkpoints.CATALOGUE[{MODEL!r}] = replace(entry, sha256={SHA256!r}, bytes={len(PAYLOAD)})
print(checkpoints.fetch_checkpoint({MODEL!r}))
"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# The catalogue


def test_the_catalogue_has_the_eight_released_models_and_the_bundled_one() -> None:
    released = [entry for entry in checkpoints.CATALOGUE.values() if entry.url is not None]
    assert len(released) == 8
    assert set(checkpoints.MODEL_NAMES) == {entry.model_name for entry in released} | {"sam2_hiera_nano"}
    for entry in released:
        assert entry.url.startswith("https://dl.fbaipublicfiles.com/segment_anything_2/")
        assert entry.url.endswith(f"/{entry.model_name}.pt")
        assert len(bytes.fromhex(entry.sha256)) == 32
    assert len({entry.sha256 for entry in released}) == 8


def test_what_was_released_is_listed_as_it_was_released() -> None:
    """Addresses, hashes and sizes of files that nobody will change: none of them may change here."""
    lines = [f"{c.url} {c.sha256} {c.bytes}\n" for c in checkpoints.CATALOGUE.values() if c.url]
    digest = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    assert digest == "943f95dec9bbf8d6749958f25dab91998a7bbf9d460f21c2313265b906d0f8f6"


@pytest.mark.parametrize("model_name", checkpoints.MODEL_NAMES)
def test_every_model_has_a_config_of_its_size(model_name: str) -> None:
    config = read_config(checkpoints.CATALOGUE[model_name].config)
    trunk = config["model"]["image_encoder"]["trunk"]
    size = model_name.partition("hiera_")[2]
    width, blocks = {
        "nano": (32, [1, 2, 4, 1]),
        "tiny": (96, [1, 2, 7, 2]),
        "small": (96, [1, 2, 11, 2]),
        "base_plus": (112, None),  # Hiera's default
        "large": (144, [2, 6, 36, 4]),
    }[size]
    assert trunk["embed_dim"] == width
    assert trunk.get("stages") == blocks
    of_2_1 = "no_obj_embed_spatial" in config["model"]
    assert of_2_1 == model_name.startswith("sam2.1")


def test_a_file_is_of_the_catalogue_where_its_name_and_its_folder_are(cache: Path, tmp_path: Path) -> None:
    for folder in (cache, checkpoints.MODELS_FOLDER):
        assert checkpoints.is_of_the_catalogue(folder / FILE)
        assert not checkpoints.is_of_the_catalogue(folder / "mine.pt")
    assert not checkpoints.is_of_the_catalogue(tmp_path / FILE)


def test_a_path_in_a_message_prints_and_is_cut_where_it_is_long() -> None:
    assert checkpoints.shown("/a/mein Modell 模型.pt") == "/a/mein Modell 模型.pt"
    assert checkpoints.shown("/a\0b\n") == "/a\\x00b\\n"
    assert checkpoints.shown("x" * 300) == "x" * 300
    long = checkpoints.shown("a" * 200 + "b" * 200)
    assert long == "a" * 140 + "…" + "b" * 140


@pytest.mark.parametrize("function", [find_checkpoint, fetch_checkpoint, checkpoints.checkpoint_state])
def test_an_unknown_model_name_is_refused_with_the_accepted_ones(function: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"'sam3_huge' is unknown.*sam2_hiera_tiny.*sam2_hiera_nano"):
        function("sam3_huge")


def test_importing_the_catalogue_does_not_import_torch_sam2_or_hydra() -> None:
    script = (
        "import sys; from infer_segment_anything_2.segmentation import checkpoints;"
        "print({'torch', 'sam2', 'hydra', 'omegaconf'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Not from the checkout: there the file infer_segment_anything_2.py hides the package of that name.
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, env=env, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "set()"


# Lookup


def test_the_bundled_model_is_found_in_the_plugin_folder() -> None:
    assert fetch_checkpoint("sam2_hiera_nano") == checkpoints.MODELS_FOLDER / "sam2_hiera_nano.pt"
    assert Path(checkpoints.CATALOGUE["sam2_hiera_nano"].config).is_file()
    assert checkpoints.checkpoint_state("sam2_hiera_nano") == "bundled"


def test_the_plugin_folder_comes_before_the_hub_cache(cache: Path, tmp_path: Path) -> None:
    assert find_checkpoint(MODEL) is None
    assert checkpoints.checkpoint_state(MODEL) == "to download"
    cached = place(cache / FILE)
    assert find_checkpoint(MODEL) == cached
    assert checkpoints.checkpoint_state(MODEL) == "on disk"
    in_plugin = place(tmp_path / "models" / FILE)
    assert find_checkpoint(MODEL) == in_plugin


def test_a_hub_folder_set_with_torch_hub_set_dir_is_used(cache: Path, tmp_path: Path) -> None:
    torch.hub.set_dir(str(tmp_path / "elsewhere"))  # the cache fixture's monkeypatch undoes it
    placed = place(tmp_path / "elsewhere/checkpoints" / FILE)
    assert find_checkpoint(MODEL) == placed


def test_a_partial_download_of_the_published_plugin_is_passed_over_with_a_warning(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = place(tmp_path / "models" / FILE, PAYLOAD[:300_000])
    cached = place(cache / FILE)
    assert find_checkpoint(MODEL) == cached
    assert str(partial) in caplog.text
    assert f"300000 bytes instead of {len(PAYLOAD)}" in caplog.text


@pytest.mark.parametrize("size_is_known", [True, False])
def test_a_file_that_is_no_complete_archive_is_passed_over(
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    size_is_known: bool,
) -> None:
    if size_is_known:
        content = b"\0" * len(PAYLOAD)
    else:
        content = PAYLOAD[:-100]
        monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, replace(checkpoints.CATALOGUE[MODEL], bytes=None))
    damaged = place(cache / FILE, content)
    assert find_checkpoint(MODEL) is None
    assert f"{damaged} is not a complete zip archive" in caplog.text


def test_a_missing_bundled_model_asks_to_install_the_plugin_again(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam2_hiera_nano\.pt.*Install the plugin again"):
        fetch_checkpoint("sam2_hiera_nano")


# Good downloads


def test_a_download_arrives_in_the_hub_cache_under_its_name_and_is_not_repeated(cache: Path, host: Host) -> None:
    path = fetch_checkpoint(MODEL)
    assert path == cache / FILE
    assert path.read_bytes() == PAYLOAD
    assert checkpoint_files(cache) == [FILE]
    assert fetch_checkpoint(MODEL) == path
    assert host.requests == [f"/mirror/072824/{FILE}"]


def test_progress_rises_to_the_total(cache: Path, host: Host) -> None:
    calls: list[tuple[int, int | None]] = []
    fetch_checkpoint(MODEL, lambda done, total: calls.append((done, total)))
    assert len(calls) > 2
    assert calls == sorted(calls)
    assert calls[-1] == (len(PAYLOAD), len(PAYLOAD))


def test_a_server_that_does_not_tell_the_length_serves_too(cache: Path, host: Host) -> None:
    host.declared = None
    calls: list[tuple[int, int | None]] = []
    fetch_checkpoint(MODEL, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(PAYLOAD), None)


def test_a_folder_can_be_the_mirror(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path / "mirror/072824" / FILE)
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", (tmp_path / "mirror").as_uri())
    assert fetch_checkpoint(MODEL).read_bytes() == PAYLOAD


def test_a_damaged_file_in_the_cache_is_replaced(cache: Path, host: Host) -> None:
    place(cache / FILE, PAYLOAD[:1000])
    assert fetch_checkpoint(MODEL).read_bytes() == PAYLOAD


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_drawn_in_a_terminal_only(
    cache: Path, host: Host, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    fetch_checkpoint(MODEL)
    assert ("100%" in stderr.getvalue()) == terminal


def test_a_download_works_without_a_stderr_as_in_a_windowed_application(
    cache: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert fetch_checkpoint(MODEL).read_bytes() == PAYLOAD


# Failures


def failure(cache: Path, url: str) -> str:
    """Fetch, check that it failed with everything the user needs and without leaving a file; the message."""
    with pytest.raises(CheckpointError) as caught:
        fetch_checkpoint(MODEL)
    message = str(caught.value)
    for needed in (f"{url}/072824/{FILE}", str(cache / FILE), SHA256, "sam2_hiera_nano", "offline"):
        assert needed in message
    assert "Traceback" not in message
    assert checkpoint_files(cache) == []
    return message


def test_a_file_that_the_server_does_not_have_is_told(cache: Path, host: Host) -> None:
    host.status = 404
    assert "the server answered 404 (Not Found)" in failure(cache, host.url)


def test_no_connection_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:  # bound but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", url)
        assert "Connection refused" in failure(cache, url)


def test_a_connection_that_ends_early_is_told(cache: Path, host: Host) -> None:
    host.body = PAYLOAD[:400_000]
    assert f"ended after 400000 of {len(PAYLOAD)} bytes" in failure(cache, host.url)


def test_wrong_bytes_of_the_right_length_are_refused(cache: Path, host: Host) -> None:
    host.body = PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1])
    assert "invalid hash value" in failure(cache, host.url)


def test_a_silent_server_is_given_up_on(cache: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_NETWORK_TIMEOUT", 0.3)
    host.pause = threading.Event()
    assert "timed out" in failure(cache, host.url)


def test_other_threads_see_no_socket_timeout_and_an_unchanged_torch_hub(cache: Path, host: Host) -> None:
    before = dict(vars(torch.hub))
    seen: list[tuple[float | None, bool]] = []
    fetch_checkpoint(MODEL, lambda *_: seen.append((socket.getdefaulttimeout(), vars(torch.hub) == before)))
    assert set(seen) == {(None, True)}


def test_a_full_disk_is_told(cache: Path, host: Host) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as a full disk, writing fails half-way
    try:
        message = failure(cache, host.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in message


def test_a_cache_folder_that_cannot_be_made_is_told(cache: Path, host: Host) -> None:
    place(cache.parent, b"a file where the folder should be")
    assert str(cache) in failure(cache, host.url)
    assert host.requests == []


def test_a_mirror_that_is_no_url_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", "/mnt/mirror")
    assert "unknown url type" in failure(cache, "/mnt/mirror")


def test_what_is_no_archive_is_not_kept_even_with_the_right_hash(
    cache: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.body = b"no archive"
    host.declared = len(host.body)
    entry = replace(checkpoints.CATALOGUE[MODEL], sha256=hashlib.sha256(host.body).hexdigest(), bytes=len(host.body))
    monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, entry)
    with pytest.raises(CheckpointError, match="what arrived is not a checkpoint"):
        fetch_checkpoint(MODEL)
    assert checkpoint_files(cache) == []


def test_a_failed_download_can_be_tried_again(cache: Path, host: Host) -> None:
    host.status = 503
    failure(cache, host.url)
    host.status = 200
    assert fetch_checkpoint(MODEL).read_bytes() == PAYLOAD


def test_a_callback_that_raises_cancels_the_download_and_leaves_nothing(cache: Path, host: Host) -> None:
    class PressedStopError(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        raise PressedStopError

    with pytest.raises(PressedStopError):
        fetch_checkpoint(MODEL, stop)
    assert checkpoint_files(cache) == []


def test_the_leftover_of_a_killed_process_is_removed_and_other_files_are_not(cache: Path, host: Host) -> None:
    stale = place(cache / f"{FILE}.0123456789abcdef.partial", b"stale")
    others = [place(cache / "sam2_hiera_large.pt.0123.partial"), place(cache / "resnet18.pth")]
    during: list[bool] = []
    fetch_checkpoint(MODEL, lambda *_: during.append(stale.exists()))
    assert not any(during), "the download may need the space"
    assert checkpoint_files(cache) == sorted([FILE, *(other.name for other in others)])


# Several processes


def test_two_processes_at_once_download_once(cache: Path, host: Host, tmp_path: Path) -> None:
    host.pause = threading.Event()
    first = start_fetching_process(tmp_path)
    wait_for(lambda: host.requests)
    second = start_fetching_process(tmp_path)
    assert second.stderr is not None
    assert "Another process is downloading" in second.stderr.readline()
    host.pause.set()
    for process in (first, second):
        output, errors = process.communicate(timeout=300)
        assert output.strip() == str(cache / FILE), errors
    assert len(host.requests) == 1
    assert (cache / FILE).read_bytes() == PAYLOAD
    assert checkpoint_files(cache) == [FILE]


def test_a_download_killed_half_way_leaves_no_checkpoint_and_the_next_one_succeeds(
    cache: Path, host: Host, tmp_path: Path
) -> None:
    host.pause = threading.Event()
    process = start_fetching_process(tmp_path)
    wait_for(lambda: any(partial.stat().st_size for partial in cache.glob("*.partial")))
    process.kill()
    process.communicate()
    assert find_checkpoint(MODEL) is None
    assert len(checkpoint_files(cache)) == 1
    host.pause.set()
    assert fetch_checkpoint(MODEL).read_bytes() == PAYLOAD
    assert checkpoint_files(cache) == [FILE]
