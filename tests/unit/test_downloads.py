"""Downloads against a real server that does everything a server, a proxy, a disk and a user can do wrong.

Whatever happens, there is the right file or none, nothing else lies in the folder, and the message says what to do.
"""

# ruff: noqa: E501 - a row of a table is a line
from __future__ import annotations

import ctypes
import fnmatch
import hashlib
import io
import logging
import os
import re
import resource
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import zipfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import NAME, ROOT

from infer_segment_anything_2.segmentation import checkpoints, downloads
from infer_segment_anything_2.segmentation.checkpoints import CheckpointError, fetch_checkpoint, find_checkpoint

MODEL = "sam2_hiera_tiny"
FILE = f"{MODEL}.pt"
PATH = f"/072824/{FILE}"


def zip_of(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", os.urandom(size))
    return buffer.getvalue()


PAYLOAD = zip_of(600_000)  # several chunks
SIZE = len(PAYLOAD)
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()

Answer = Callable[[socket.socket, str], None]
"""What the server does with one request: a connection, and the first line of what was asked for."""


class Server(socketserver.ThreadingTCPServer):
    """A server that does with every connection what `answer` says; nothing of HTTP is taken for granted."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), None)
        self.answer: Answer = good
        self.requests: list[str] = []
        self.authorizations: list[str] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            part = request.recv(65536)
            if not part:
                return
            asked += part
        line = asked.split(b"\r\n")[0].decode()
        self.requests.append(line)
        self.authorizations += re.findall(r"(?im)^authorization: (.*)\r$", asked.decode())
        self.answer(request, line)

    def handle_error(self, *args: object) -> None:  # clients that were killed or gave up
        pass


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode()


def says(status: str, *headers: str, body: bytes = b"") -> Answer:
    """The server answers with these bytes and hangs up."""
    return lambda connection, line: connection.sendall(head(status, *headers) + body)


def raw(*parts: bytes) -> Answer:
    return lambda connection, line: connection.sendall(b"".join(parts))


good = says("200 OK", f"Content-Length: {SIZE}", body=PAYLOAD)


def cut_at(percent: int, *headers: str) -> Answer:
    return says("200 OK", *headers, body=PAYLOAD[: SIZE * percent // 100])


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> Answer:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return says("200 OK", "Transfer-Encoding: chunked", body=body + end)


def reset_half_way(connection: socket.socket, line: str) -> None:
    connection.sendall(head("200 OK", f"Content-Length: {SIZE}") + PAYLOAD[: SIZE // 2])
    time.sleep(0.05)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def endless(connection: socket.socket, line: str) -> None:
    connection.sendall(head("200 OK"))
    while True:
        connection.sendall(bytes(1 << 16))


def dribble(connection: socket.socket, line: str) -> None:
    connection.sendall(head("200 OK", f"Content-Length: {SIZE}"))
    for start in range(0, SIZE, 5000):
        connection.sendall(PAYLOAD[start : start + 5000])
        time.sleep(0.001)


def silent_after(sent: bytes) -> Answer:
    def answer(connection: socket.socket, line: str) -> None:
        connection.sendall(sent)
        connection.settimeout(60)
        connection.recv(1)  # until the other side hangs up

    return answer


def redirected_once(connection: socket.socket, line: str) -> None:
    (good if "elsewhere" in line else says("302 Found", "Location: /elsewhere"))(connection, line)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # urllib keeps the proxies that were set when it was first used.
    monkeypatch.setattr("urllib.request._opener", None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", server.url)
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache (not yet a folder) and an empty models folder; MODEL's file is PAYLOAD."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(checkpoints, "MODELS_FOLDER", tmp_path / "models")
    monkeypatch.setattr(downloads, "NETWORK_TIMEOUT", 0.4)
    entry = replace(checkpoints.CATALOGUE[MODEL], sha256=SHA256, bytes=SIZE)
    monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, entry)
    return cache_in(tmp_path / "torch", monkeypatch)


def cache_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(folder))
    return folder / "hub" / "checkpoints"


def refusal(cache: Path, url: str) -> str:
    """Fetch, which fails with all that the user needs and leaves nothing; the reason that is given."""
    before = listing(cache)
    with pytest.raises(CheckpointError) as caught:
        fetch_checkpoint(MODEL)
    reason, *advice = str(caught.value).split("\n")
    assert advice == [
        f"URL: {url}{PATH} or {url}/{FILE} (the environment variable SAM2_CHECKPOINT_MIRROR can name another host).",
        f"To put it there by hand, save it as {cache / FILE} (SHA-256 {SHA256}).",
        "model_name 'sam2_hiera_nano' comes with the plugin and works offline.",
    ]
    assert listing(cache) == before
    return reason.removeprefix(f"The checkpoint of {MODEL} could not be downloaded: ").removesuffix(".")


def listing(cache: Path) -> list[str]:
    """Everything in the folder, lock files too."""
    return sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []


def fetched(cache: Path) -> bool:
    return fetch_checkpoint(MODEL).read_bytes() == PAYLOAD and listing(cache) == [FILE]


# ---------------------------------------------------------------- the server

LENGTH = f"Content-Length: {SIZE}"
FLIPPED = PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1])
OTHER_HASH = "what arrived is another file: its SHA-256 is *"
REFUSED = [
    ("403", says("403 Forbidden"), "the server answered 403 (Forbidden)"),
    ("404", says("404 Not Found", body=b"<html>"), "the server answered 404 (Not Found)"),
    ("500", says("500 Internal Server Error"), "the server answered 500 (Internal Server Error)"),
    ("503 in many lines", says("503 Try\tagain"), "the server answered 503 (Try again)"),
    ("204", says("204 No Content"), OTHER_HASH),
    ("a redirect loop", says("302 Found", "Location: /again"), "the server answered 302 (* infinite loop.* Found)"),
    ("a redirect to nowhere", says("301 Moved"), "the server answered 301 (Moved)"),
    ("a redirect to a file", says("302 Found", "Location: file:///etc/passwd"), "the server answered 302 (* not allowed)"),
    ("silence", silent_after(b""), "timed out"),
    ("silence after the headers", silent_after(head("200 OK", LENGTH)), "*timed out"),
    ("silence at 50 %", silent_after(head("200 OK", LENGTH) + PAYLOAD[: SIZE // 2]), "*timed out"),
    ("cut at 1 %", cut_at(1, LENGTH), f"the connection ended after {SIZE // 100} of {SIZE} bytes"),
    ("cut at 50 %", cut_at(50, LENGTH), f"the connection ended after {SIZE // 2} of {SIZE} bytes"),
    ("cut at 99 %", cut_at(99, LENGTH), f"the connection ended after {SIZE * 99 // 100} of {SIZE} bytes"),
    ("cut before the first byte", cut_at(0, LENGTH), f"the connection ended after 0 of {SIZE} bytes"),
    ("cut without a length", cut_at(50), OTHER_HASH),
    ("cut in a chunk", chunked(PAYLOAD[:400_000], end=b"ffff\r\nabc"), "IncompleteRead(* bytes read*)"),
    ("cut between chunks", chunked(PAYLOAD[:400_000], end=b""), "IncompleteRead(*"),
    ("a chunk without a length", chunked(PAYLOAD[:400_000], end=b"?\r\n"), "IncompleteRead(*"),
    ("a reset at 50 %", reset_half_way, "*Connection reset by peer"),
    ("hanging up at once", raw(), "Remote end closed connection without response"),
    ("wrong bytes of the right length", says("200 OK", LENGTH, body=FLIPPED), OTHER_HASH),
    ("nothing", says("200 OK", "Content-Length: 0"), OTHER_HASH),
    ("a page that asks to log in", says("200 OK", "Content-Length: 9", body=b"<html/>\r\n"), OTHER_HASH),
    ("bytes in gzip", says("200 OK", "Content-Encoding: gzip", body=b"\x1f\x8b" + PAYLOAD[2:]), OTHER_HASH),
    ("a larger file", says("200 OK", f"Content-Length: {10**12}", body=PAYLOAD), f"the server offers {10**12} bytes, more than the {SIZE} *"),
    ("bytes without end", endless, f"the server sends more than the {SIZE} bytes that the checkpoint can have"),
    ("a length that is too small", says("200 OK", "Content-Length: 1000", body=PAYLOAD), OTHER_HASH),
    ("something that is no HTTP", raw(b"220 ftp ready\r\n"), "220 ftp ready"),
    ("bytes for a status line", raw(os.urandom(50).replace(b"\n", b""), b"\r\n\r\n"), "*"),
    ("a status of 70,000 characters", raw(b"HTTP/1.1 200 " + b"x" * 70_000, b"\r\n\r\n"), "got more than 65536 bytes when reading status line"),
    ("a header of 70,000 characters", says("200 OK", "X: " + "x" * 70_000), "got more than 65536 bytes when reading header line"),
    ("a thousand headers", says("200 OK", *["X: y"] * 1000), "got more than 100 headers"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_download_that_fails_says_why_leaves_nothing_and_can_be_tried_again(cache, server, answer, reason):
    server.answer = answer
    said = refusal(cache, server.url)
    assert fnmatch.fnmatchcase(said, reason.replace("[", "[[]")), said
    assert said.isprintable()
    assert len(said) < 300
    server.answer = good
    assert fetched(cache)


GOOD = [
    ("slow", dribble),
    ("redirected", redirected_once),
    ("without a length", says("200 OK", body=PAYLOAD)),
    ("in chunks", chunked(PAYLOAD[:7], PAYLOAD[7:400_000], PAYLOAD[400_000:])),
    ("with a length that is no number", says("200 OK", "Content-Length: many", body=PAYLOAD)),
    ("with a negative length", says("200 OK", "Content-Length: -1", body=PAYLOAD)),
    ("with an empty length", says("200 OK", "Content-Length:", body=PAYLOAD)),
    ("with bytes after its end", says("200 OK", LENGTH, body=PAYLOAD + b"and more")),
    ("with a status of its own", says("299 Fine", LENGTH, body=PAYLOAD)),
]


@pytest.mark.parametrize("answer", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_download_that_is_only_unusual_succeeds(cache, server, answer):
    server.answer = answer
    progress = []
    assert fetch_checkpoint(MODEL, lambda *done: progress.append(done)).read_bytes() == PAYLOAD
    assert len(progress) > 2
    assert progress == sorted(progress)
    assert progress[-1] in ((SIZE, SIZE), (SIZE, None))
    assert listing(cache) == [FILE]


def test_a_checkpoint_that_was_downloaded_is_not_downloaded_again(cache, server):
    assert fetch_checkpoint(MODEL) == cache / FILE
    assert fetched(cache)
    assert len(server.requests) == 1


@pytest.mark.parametrize("terminal", [True, False, None])
def test_a_bar_is_drawn_at_a_terminal_only(cache, server, monkeypatch, terminal):
    """None: without a stderr, as in an application with windows."""
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", None if terminal is None else stderr)
    assert fetched(cache)
    assert ("100%" in stderr.getvalue()) == bool(terminal)


class StopError(Exception):
    """What a callback raises to end a download."""


def test_a_callback_that_raises_ends_the_download_and_leaves_nothing(cache, server):
    def stop(done: int, total: int | None) -> None:
        raise StopError

    with pytest.raises(StopError):
        fetch_checkpoint(MODEL, stop)
    assert listing(cache) == []


# ---------------------------------------------------------------- mirrors and proxies


@pytest.mark.parametrize("form", ["{}/", "{}///", " {} ", "{}\n", "\t{}/ "])
def test_a_mirror_may_be_written_with_slashes_and_blanks(cache, server, monkeypatch, form):
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", form.format(server.url))
    assert fetched(cache)
    assert server.requests == [f"GET {PATH} HTTP/1.1"]


@pytest.mark.parametrize("empty", ["", " ", "/"])
def test_an_empty_mirror_is_none(cache, server, monkeypatch, empty):
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", empty)
    monkeypatch.setattr(checkpoints, "HOST", server.url)
    entry = checkpoints.CATALOGUE[MODEL]
    monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, replace(entry, url=server.url + PATH))
    assert fetched(cache)


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ("mirror.example.org", "unknown url type"),
        ("/mnt/mirror", "unknown url type"),
        ("C:\\mirror", "unknown url type"),
        ("gopher://127.0.0.1", "unknown url type"),
        ("file:///nowhere at all", "No such file or directory"),
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://127.0.0.1:notaport", "nonnumeric port"),
        ("http:", "no host given"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://ho st.example.org", "control characters"),
        ("http://127.0.0.1:9/\u00fc", "ordinal not in range"),
        ("https://127.0.0.1:{port}", "handshake"),
    ],
)
def test_a_mirror_that_is_none_is_told(cache, server, monkeypatch, mirror, reason):
    mirror = mirror.format(port=server.server_address[1])
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", mirror)
    assert reason in refusal(cache, mirror)


def test_a_folder_can_be_the_mirror(cache, tmp_path, monkeypatch):
    (tmp_path / "mirror/072824").mkdir(parents=True)
    (tmp_path / "mirror/072824" / FILE).write_bytes(PAYLOAD)
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", (tmp_path / "mirror").as_uri())
    assert fetched(cache)


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "410 Gone"])
def test_a_mirror_may_have_the_files_without_folders(cache, server, status):
    """403 is the answer of S3 to those who may not list what there is."""

    def flat(connection: socket.socket, line: str) -> None:
        (good if line == f"GET /{FILE} HTTP/1.1" else says(status))(connection, line)

    server.answer = flat
    assert fetched(cache)
    assert server.requests == [f"GET {PATH} HTTP/1.1", f"GET /{FILE} HTTP/1.1"]


def test_a_folder_without_folders_can_be_the_mirror(cache, tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / FILE).write_bytes(PAYLOAD)
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", (tmp_path / "mirror").as_uri())
    assert fetched(cache)


def test_a_file_without_a_folder_is_compared_with_its_hash_too(cache, server):
    other = says("200 OK", LENGTH, body=FLIPPED)
    server.answer = lambda connection, line: (says("404 Not Found") if PATH in line else other)(connection, line)
    assert "what arrived is another file" in refusal(cache, server.url)


def test_a_user_and_a_password_before_the_host_are_sent_to_it_and_never_shown(cache, server, monkeypatch, caplog):
    host = server.url.removeprefix("http://")
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", f"http://me%40work:se%3Acret@{host}/sam")
    server.answer = says("401 Unauthorized")
    with caplog.at_level(logging.DEBUG):
        reason = refusal(cache, f"{server.url}/sam")
    assert "the server answered 401" in reason
    server.answer = good
    with caplog.at_level(logging.DEBUG):
        assert fetched(cache)
    assert "cret" not in caplog.text
    assert {b64decode(found.split()[1]) for found in server.authorizations} == {b"me@work:se:cret"}


@pytest.mark.parametrize(("status", "count"), [("404 Not Found", 2), ("503 Busy", 1)])
def test_a_mirror_is_asked_again_only_where_it_does_not_have_the_file(cache, server, status, count):
    server.answer = says(status)
    assert f"the server answered {status[:3]}" in refusal(cache, server.url)
    assert len(server.requests) == count


def test_a_proxy_is_used_and_no_proxy_goes_around_it(cache, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", "http://mirror.invalid/sam2")
    assert fetched(cache)
    assert server.requests == [f"GET http://mirror.invalid/sam2{PATH} HTTP/1.1"]
    (cache / FILE).unlink()
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetched(cache)
    assert server.requests[-1] == f"GET {PATH} HTTP/1.1"


@pytest.mark.parametrize(
    ("proxy", "answer", "reason"),
    [
        ("{url}", says("407 Proxy Authentication Required"), "the server answered 407 (Proxy Authentication Required)"),
        ("{url}", says("502 Bad Gateway"), "the server answered 502 (Bad Gateway)"),
        ("http://127.0.0.1:9", good, "Connection refused"),
        ("http://127.0.0.1:port", good, "port"),
        ("http://", good, "no host"),
        ("socks5://127.0.0.1:9", good, ""),
    ],
)
def test_a_proxy_that_fails_is_told(cache, server, monkeypatch, proxy, answer, reason):
    server.answer = answer
    monkeypatch.setenv("http_proxy", proxy.format(url=server.url))
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", "http://mirror.invalid")
    assert reason in refusal(cache, "http://mirror.invalid")


# ---------------------------------------------------------------- the disk


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mount an empty disk with options; skips where that is not allowed."""
    mounted = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told(cache, server):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as on a full disk, writing fails half-way
    try:
        assert "File too large" in refusal(cache, server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_before_the_first_byte_is_told(cache, server, small_disk, monkeypatch):
    disk = small_disk("size=4k")
    (disk / "hub" / "checkpoints").mkdir(parents=True)
    fill = [sys.executable, "-c", "import sys; open(sys.argv[1], 'wb').write(bytes(9999))", str(disk / "filler")]
    assert subprocess.run(fill, capture_output=True).returncode
    assert "No space left on device" in refusal(cache_in(disk, monkeypatch), server.url)


def test_a_disk_without_inodes_is_told(cache, server, small_disk, monkeypatch):
    disk = small_disk("size=9m,nr_inodes=4")
    (disk / "hub" / "checkpoints").mkdir(parents=True)
    assert "No space left on device" in refusal(cache_in(disk, monkeypatch), server.url)


def test_a_read_only_disk_is_told_and_a_checkpoint_on_it_is_used(cache, server, small_disk, monkeypatch):
    disk = small_disk("size=9m")
    cache = cache_in(disk, monkeypatch)
    cache.mkdir(parents=True)
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, check=True)
    assert "Read-only file system" in refusal(cache, server.url)
    assert server.requests == []
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    (cache / FILE).write_bytes(PAYLOAD)
    subprocess.run(remount, check=True)
    assert fetch_checkpoint(MODEL) == cache / FILE
    assert server.requests == []


@pytest.mark.parametrize("place", ["torch", "torch/hub", "torch/hub/checkpoints"])
def test_a_file_in_place_of_a_folder_is_told(cache, server, tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("not a folder")
    assert str(tmp_path / place) in refusal(cache, server.url)
    assert server.requests == []


@pytest.mark.parametrize("name", [FILE, f"{FILE}.lock"])
def test_a_folder_in_place_of_a_file_is_told_before_anything_is_downloaded(cache, server, name):
    (cache / name).mkdir(parents=True)
    assert refusal(cache, server.url) == "there is a folder in its place" or name.endswith(".lock")
    assert server.requests == []
    assert list((cache / name).iterdir()) == []


def test_a_checkpoint_whose_size_nobody_knows_is_not_downloaded_beyond_two_gigabytes(cache, server):
    server.answer = says("200 OK", f"Content-Length: {(2 << 30) + 1}")
    with pytest.raises(CheckpointError, match="offers 2147483649 bytes, more than the 2147483648"):
        fetch_checkpoint("sam2_hiera_base_plus")
    assert list(cache.glob("*")) == []


def test_a_damaged_file_is_replaced_and_what_a_killed_download_left_is_removed_first(cache, server):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(PAYLOAD[:1000])
    stale = cache / f"{FILE}.0123456789abcdef.partial"
    stale.write_bytes(b"stale")
    during = []
    fetch_checkpoint(MODEL, lambda *_: during.append(stale.exists()))
    assert not any(during), "the download may need the space"
    assert fetched(cache)


def test_a_link_to_nowhere_in_place_of_the_file_becomes_the_file(cache, server):
    cache.mkdir(parents=True)
    (cache / FILE).symlink_to(cache / "nowhere")
    assert fetched(cache)
    assert not (cache / FILE).is_symlink()


def test_other_files_are_left_alone(cache, server):
    others = ["resnet18.pth", "sam2_hiera_large.pt.0123.partial", "sam2_hiera_large.pt.lock", f"{FILE}.txt"]
    cache.mkdir(parents=True)
    for name in others:
        (cache / name).write_text("mine")
    server.answer = cut_at(50, LENGTH)
    refusal(cache, server.url)
    server.answer = good
    fetch_checkpoint(MODEL)
    assert listing(cache) == sorted([*others, FILE])
    assert {(cache / name).read_text() for name in others} == {"mine"}


# ---------------------------------------------------------------- processes

# torch takes seconds to import, and is only asked where its cache lies.
CHILD = f"""
import os, sys, types
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.hub = sys.modules["torch.hub"] = types.ModuleType("torch.hub")
torch.hub.get_dir = lambda: os.path.join(os.environ["TORCH_HOME"], "hub")
from dataclasses import replace
from pathlib import Path
from infer_segment_anything_2.segmentation import checkpoints, downloads
checkpoints.MODELS_FOLDER = Path("nowhere")
checkpoints.CATALOGUE[{MODEL!r}] = replace(checkpoints.CATALOGUE[{MODEL!r}], sha256={SHA256!r}, bytes={SIZE})
print("ready", flush=True)
sys.stdin.readline()
try:
    print(checkpoints.fetch_checkpoint({MODEL!r}))
except checkpoints.CheckpointError as error:
    print("refused:", error)
"""


def start_child(folder: Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """A process that fetches MODEL as soon as a line is written to it."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def let_go(child: subprocess.Popen[str]) -> None:
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    child.stdin.write("\n")
    child.stdin.flush()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "waited for five minutes"
        time.sleep(0.02)


def half_then_wait(event: threading.Event) -> Answer:
    def answer(connection: socket.socket, line: str) -> None:
        connection.sendall(head("200 OK", LENGTH) + PAYLOAD[: SIZE // 2])
        event.wait(300)
        connection.sendall(PAYLOAD[SIZE // 2 :])

    return answer


def test_four_processes_at_once_get_one_download_and_leave_nothing_else(cache, server, tmp_path):
    arrived = threading.Event()
    server.answer = half_then_wait(arrived)
    children = [start_child(tmp_path) for _ in range(4)]
    for child in children:
        let_go(child)
    wait_for(lambda: server.requests)
    time.sleep(0.5)  # so that the others wait
    arrived.set()
    for child in children:
        output, errors = child.communicate(timeout=300)
        assert output.strip() == str(cache / FILE), errors
    assert len(server.requests) == 1
    assert fetched(cache)


def test_of_four_processes_at_once_each_tries_when_the_one_before_failed(cache, server, tmp_path):
    numbers = count(1)
    server.answer = lambda *args: (good if next(numbers) == 3 else says("503 Busy"))(*args)
    children = [start_child(tmp_path) for _ in range(4)]
    for child in children:
        let_go(child)
    outputs = [child.communicate(timeout=300)[0].strip() for child in children]
    assert sorted(output.startswith("refused: ") for output in outputs) == [False, False, True, True]
    assert outputs.count(str(cache / FILE)) == 2
    assert len(server.requests) == 3
    assert fetched(cache)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
def test_a_process_that_is_killed_half_way_leaves_no_checkpoint_and_the_next_one_cleans_up(
    cache, server, tmp_path, sent
):
    never = threading.Event()
    server.answer = half_then_wait(never)
    child = start_child(tmp_path)
    let_go(child)
    wait_for(lambda: any(path.stat().st_size for path in cache.glob("*.partial")))
    child.send_signal(sent)
    child.communicate(timeout=300)
    never.set()
    assert find_checkpoint(MODEL) is None
    if sent == signal.SIGINT:  # Ctrl-C is an exception: what was begun is put away
        assert listing(cache) == []
    server.answer = good
    assert fetched(cache)


def test_who_waits_for_another_process_can_be_stopped(cache, server, tmp_path):
    never = threading.Event()
    server.answer = half_then_wait(never)
    child = start_child(tmp_path)
    let_go(child)
    wait_for(lambda: any(path.stat().st_size for path in cache.glob("*.partial")))

    def stop(done: int, total: int | None) -> None:
        assert (done, total) == (0, None)
        raise StopError

    with pytest.raises(StopError):
        fetch_checkpoint(MODEL, stop)
    assert child.poll() is None
    assert len(server.requests) == 1
    never.set()
    assert child.communicate(timeout=300)[0].strip() == str(cache / FILE)
    assert fetched(cache)


def drop_the_rights_of_root() -> None:
    """In this process and its children, files are protected from root as from anyone."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's capabilities")
@pytest.mark.parametrize(("folder", "mode"), [("", 0o555), ("..", 0o000)])
def test_a_folder_without_permission_is_told(cache, server, tmp_path, folder, mode):
    cache.mkdir(parents=True)
    (cache / folder).chmod(mode)
    child = start_child(tmp_path, drop_the_rights_of_root)
    let_go(child)
    output, errors = child.communicate(timeout=300)
    (cache / folder).chmod(0o755)
    assert output.startswith(
        f"refused: The checkpoint of {MODEL} could not be downloaded: [Errno 13] Permission denied: "
    ), errors
    assert "works offline" in output
    assert server.requests == []
    assert listing(cache) == []


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's capabilities")
def test_weights_that_one_may_not_read_are_told(tmp_path):
    mine = tmp_path / "mine.pt"
    mine.write_bytes(PAYLOAD)
    mine.chmod(0o000)
    code = (
        "from infer_segment_anything_2.segmentation.messages import fault_of_file as fault; from pathlib import Path;"
        f"print(fault(Path({str(mine)!r})), fault(Path({str(mine)!r} + '/inside')), sep=' | ')"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=drop_the_rights_of_root,
    )
    assert done.stdout.strip() == "may not be read | cannot be opened (Not a directory)", done.stderr


# ---------------------------------------------------------------- a user's session


def test_in_a_workflow_a_failed_download_is_told_and_the_session_goes_on(workflow, algo, cache, server, monkeypatch):
    import numpy as np

    nano = ROOT / "models"
    monkeypatch.setattr(checkpoints, "MODELS_FOLDER", nano)
    weights = (nano / "sam2_hiera_nano.pt").read_bytes()
    entry = replace(
        checkpoints.CATALOGUE[MODEL],
        config=checkpoints.CATALOGUE["sam2_hiera_nano"].config,
        sha256=hashlib.sha256(weights).hexdigest(),
        bytes=len(weights),
    )
    monkeypatch.setitem(checkpoints.CATALOGUE, MODEL, entry)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    algo.set_parameters({"input_point": "[20, 20]"})
    workflow.run_on(array=image)
    expected, model = algo.get_output(1).get_mask().copy(), algo._segmenter
    server.answer = says("404 Not Found")
    algo.set_parameters({"model_name": MODEL})
    with pytest.raises(RuntimeError) as caught:
        workflow.run_on(array=image)
    told = f"CheckpointError'>: The checkpoint of {MODEL} could not be downloaded: the server answered 404 (Not Found).\nURL: "
    assert told in str(caught.value)
    assert algo._segmenter is model
    algo.set_parameters({"model_name": "sam2_hiera_nano"})
    workflow.run_on(array=image)
    np.testing.assert_array_equal(algo.get_output(1).get_mask(), expected)
    server.answer = says("200 OK", f"Content-Length: {len(weights)}", body=weights)
    algo.set_parameters({"model_name": MODEL})
    workflow.run_on(array=image)
    np.testing.assert_array_equal(algo.get_output(1).get_mask(), expected)
    assert listing(cache) == [FILE]
    assert algo.name == NAME
