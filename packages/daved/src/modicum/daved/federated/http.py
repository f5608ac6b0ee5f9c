"""Frames over HTTP, with nothing but the standard library.

A seller listens, a buyer posts one frame to ``/frames`` and gets one frame back. What a frame may
say is a matter of `messages`: it is read as a header of JSON and plain numbers, never unpickled.
Both sides limit sizes and times. There is no encryption and no password here: a server listens on
this machine only, and a buyer calls only it, unless ``allow_remote`` says otherwise; beyond one
machine let a proxy in front of the seller add TLS and ask who is there (a buyer can call https).
"""

import contextlib
import http.client
import ipaddress
import threading
import time
import urllib.parse
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from modicum.daved.errors import DAVEDWarning
from modicum.daved.federated.local import Handler
from modicum.daved.validation import check_count, check_positive

__all__ = ["MAX_BYTES", "HTTPTransport", "SellerServer", "serve_seller"]

MAX_BYTES = 128 * 2**20
"""Largest frame that is taken, unless another limit is given."""

_PATH = "/frames"
# Not one of the types that a page in a browser may post to another site without being asked back.
_CONTENT_TYPE = "application/x-modicum-daved-frame"
# How long the end of a server may take.
_POLL_S = 0.05
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0


class SellerServer(ThreadingHTTPServer):
    """A seller that listens; made by `serve_seller`.

    Use it in a ``with`` statement, and it answers in a thread of its own until the end of it; or
    call `serve_forever`, and it answers here.

    Attributes
    ----------
    url
        Where it is, with the port that it got.
    """

    daemon_threads = True

    def __init__(
        self, seller: Handler, host: str, port: int, max_bytes: int, timeout: float
    ) -> None:
        self.seller = seller
        self.max_bytes = max_bytes
        self.patience = timeout
        self.turn = threading.Lock()
        if ":" in host:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__((host, port), _FrameHandler)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(_POLL_S,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()
        self.server_close()


class _FrameHandler(BaseHTTPRequestHandler):
    """One connection: one frame in, one out."""

    server: SellerServer

    def setup(self) -> None:
        """Take the time limit from the server."""
        super().setup()
        self.connection.settimeout(self.server.patience)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the standard error stream is the command's."""

    def do_POST(self) -> None:
        """Answer a frame."""
        refusal = self._refusal()
        if refusal is not None:
            self._send(*refusal)
            return
        length = int(self.headers["Content-Length"])
        frame = self.rfile.read(length)
        if len(frame) < length:
            self._send(400, f"{len(frame)} bytes instead of {length}".encode())
            return
        with self.server.turn:
            answer = self.server.seller.handle(frame)
        self._send(200, answer)

    def _refusal(self) -> tuple[int, bytes] | None:
        """Say what is wrong with a request before its body is read."""
        if self.path != _PATH:
            return 404, f"frames go to {_PATH}".encode()
        # A page that has its own name point to this machine still sends that name.
        if _is_loopback(str(self.server.server_address[0])) and not _is_loopback(self._host()):
            return 403, b"this server is for this machine alone"
        if self.headers.get("Content-Type") != _CONTENT_TYPE:
            return 415, f"frames have the type {_CONTENT_TYPE}".encode()
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411, b"a frame needs a length"
        if int(length) > self.server.max_bytes:
            return 413, f"a frame has {self.server.max_bytes} bytes at most".encode()
        return None

    def _host(self) -> str:
        return urllib.parse.urlsplit("//" + self.headers.get("Host", "")).hostname or ""

    def _send(self, status: int, body: bytes) -> None:
        self.close_connection = True
        # Who hung up gets no answer, and asks again.
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.send_response(status)
            self.send_header("Content-Type", _CONTENT_TYPE if status == 200 else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def serve_seller(
    seller: Handler,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    allow_remote: bool = False,
    max_bytes: int = MAX_BYTES,
    timeout: float = 30.0,
) -> SellerServer:
    """Let a seller listen for a buyer.

    Parameters
    ----------
    seller
        A `Seller`; it answers one frame at a time.
    host
        Address to listen at.
    port
        0 for any that is free. A seller that restarts must come back at the same.
    allow_remote
        Whether the address may be one that others than this machine can reach.
    max_bytes
        Largest frame that is read.
    timeout
        Seconds without a byte after which a connection is given up.

    Returns
    -------
    SellerServer
        Bound, but not yet answering.

    Raises
    ------
    ValueError
        If the host isn't this machine alone and that isn't allowed, or a limit isn't positive.
    OSError
        If the port is taken.

    Warns
    -----
    DAVEDWarning
        If others can reach it.
    """
    _check_reach(host, allow_remote)
    if not _is_loopback(host):
        warnings.warn(
            f"whoever reaches {host} can ask this seller for rows, unencrypted and without a "
            "password",
            DAVEDWarning,
            stacklevel=2,
        )
    check_count("max_bytes", max_bytes)
    return SellerServer(seller, host, port, max_bytes, check_positive("timeout", timeout))


class HTTPTransport:
    """Carry frames to sellers that listen, to all at once.

    Parameters
    ----------
    urls
        ``http://host:port`` of every seller, in the order in which they are numbered; https works.
    timeout
        Seconds without a byte after which a request is given up.
    retries
        How many more times a seller is called that can't be reached, hangs up or is too slow.
        Between calls it waits .1, .2, .4 … seconds, 2 at most, so that a seller has time to
        restart; after the last it counts as silent, and the buyer's own retries follow.
    allow_remote
        Whether sellers may be on other machines than this.
    max_bytes
        Largest answer that is read.

    Attributes
    ----------
    seller_ids
        0 to the number of sellers.

    Raises
    ------
    ValueError
        If a URL is none, two are the same, or one isn't on this machine and that isn't allowed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        timeout: float = 60.0,
        retries: int = 8,
        *,
        allow_remote: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        if len(set(self.urls)) < len(self.urls):
            raise ValueError(f"urls name a seller twice: {self.urls}")
        self._parts = [_split(url) for url in self.urls]
        for parts in self._parts:
            _check_reach(parts.hostname or "", allow_remote)
        self.timeout = check_positive("timeout", timeout)
        self.retries = check_count("retries", retries, least=0)
        self.max_bytes = check_count("max_bytes", max_bytes)
        self.seller_ids: Sequence[int] = range(len(self.urls))

    def exchange(self, frames: Mapping[int, bytes]) -> dict[int, bytes]:
        """Post a frame to each seller; those that stay silent are left out.

        Raises
        ------
        RuntimeError
            If something else than a seller answers, or a frame is too large for it.
        """
        with ThreadPoolExecutor(max_workers=max(1, len(frames))) as threads:
            answers = dict(zip(frames, threads.map(self._call, frames.items()), strict=True))
        return {seller: answer for seller, answer in answers.items() if answer is not None}

    def _call(self, addressed: tuple[int, bytes]) -> bytes | None:
        seller, frame = addressed
        wait = _FIRST_WAIT_S
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self._post(seller, frame)
        return None

    def _post(self, seller: int, frame: bytes) -> bytes:
        parts = self._parts[seller]
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        # No proxies and no redirects: a frame goes where it was addressed to.
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        with contextlib.closing(connection):
            path = parts.path.rstrip("/") + _PATH
            connection.request("POST", path, body=frame, headers={"Content-Type": _CONTENT_TYPE})
            response = connection.getresponse()
            answer = response.read(self.max_bytes + 1)
            if response.status >= 500:
                raise ConnectionError(f"status {response.status}")
            if response.status != 200:
                said = answer[:200].decode(errors="replace")
                raise RuntimeError(
                    f"{self.urls[seller]} answers {response.status} {response.reason}: {said}"
                )
            if len(answer) > self.max_bytes:
                raise RuntimeError(
                    f"{self.urls[seller]} answers with more than {self.max_bytes} bytes"
                )
            if response.length:
                raise ConnectionError(f"{response.length} bytes are missing")
        return answer


def _split(url: str) -> urllib.parse.SplitResult:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"a seller's URL is like http://127.0.0.1:8000, not {url!r}")
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_reach(host: str, allow_remote: bool) -> None:
    if not allow_remote and not _is_loopback(host):
        raise ValueError(
            f"{host!r} is not this machine alone, and nothing here is encrypted: say "
            "allow_remote=True (--allow-remote) if that is meant"
        )
