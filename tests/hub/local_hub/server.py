"""The server: which function answers which request, and how answers go over a socket."""

import io
import re
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from . import accounts, reading, writing
from .messages import CHUNK_BYTES, HubError, Request, RequestBody, Response
from .state import HubState


KIND, ID, REVISION = r"(?P<kind>models|datasets|spaces)", r"(?P<repo_id>[^/]+/[^/]+?)", r"(?P<revision>[^/]+)"
REPOSITORY = rf"/api/{KIND}/{ID}"
ROUTES: list[tuple[str, str, Callable[..., Response]]] = [
    ("GET", r"/api/whoami-v2", accounts.who_am_i),
    ("GET", r"/api/agent-harnesses", accounts.agent_harnesses),
    ("POST", r"/api/validate-yaml", accounts.validate_yaml),
    ("POST", r"/api/repos/create", accounts.create_repository),
    ("DELETE", r"/api/repos/delete", accounts.delete_repository),
    ("GET", rf"/api/{KIND}", accounts.list_repositories),
    ("POST", rf"{REPOSITORY}/preupload/{REVISION}", writing.preupload),
    ("POST", rf"{REPOSITORY}/commit/{REVISION}", writing.commit),
    ("POST", rf"{REPOSITORY}/branch/(?P<branch>[^/]+)", writing.create_branch),
    ("DELETE", rf"{REPOSITORY}/branch/(?P<branch>[^/]+)", writing.delete_branch),
    ("POST", rf"{REPOSITORY}/tag/{REVISION}", writing.create_tag),
    ("DELETE", rf"{REPOSITORY}/tag/{REVISION}", writing.delete_tag),
    ("GET", rf"{REPOSITORY}/xet-(?P<mode>read|write)-token/{REVISION}", writing.xet_token),
    ("GET", rf"{REPOSITORY}/refs", reading.refs),
    ("GET", rf"{REPOSITORY}/commits/{REVISION}", reading.commits),
    ("GET", rf"{REPOSITORY}/revision/{REVISION}", reading.info),
    ("GET", rf"{REPOSITORY}/tree/{REVISION}(?:/(?P<path>.+))?", reading.tree),
    ("POST", rf"{REPOSITORY}/paths-info/{REVISION}", reading.paths_info),
    ("GET", REPOSITORY, reading.info),
    ("POST", rf"(?:/(?P<kind>datasets|spaces))?/{ID}\.git/info/lfs/objects/batch", writing.announce_large_files),
    ("POST", r"/contents/verify", writing.verify_content),
    ("PUT", r"/contents/(?P<sha256>[0-9a-f]{64})", writing.upload_content),
    ("GET", r"/contents/(?P<sha256>[0-9a-f]{64})", reading.content),
    ("GET", rf"(?:/(?P<kind>datasets|spaces))?/{ID}/resolve/{REVISION}/(?P<path>.+)", reading.resolve),
]


class HubServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1, with a thread for each connection."""

    # closing waits for them, and then for the folder that they write to
    daemon_threads = False
    # uploads and downloads come by the dozen, and the next would wait a second
    request_queue_size = 128

    def __init__(self, state: HubState) -> None:
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.state = state
        self._connections: set[socket.socket] = set()
        state.url = f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request, client_address) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request, client_address) -> None:
        # a client that goes away, and a connection that was to be cut, are nothing to tell of
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class HubRequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # else a short answer waits until the client has confirmed its head
    disable_nagle_algorithm = True
    server: HubServer

    def log_message(self, format, *args) -> None:
        pass

    def answer(self) -> None:
        state, url = self.server.state, urlsplit(self.path)
        body = io.BufferedReader(RequestBody(self.rfile, self.headers), CHUNK_BYTES)
        request = Request(self.command, self.path, url.path, parse_qs(url.query), self.headers, body)
        state.requests.append((self.command, self.path))
        if "Range" in self.headers:
            state.ranges.append((self.path, self.headers["Range"]))
        try:
            response = self._response(request)
        except HubError as error:
            response = error.response()
        except ConnectionError:
            raise
        except Exception:
            state.unhandled.append((self.command, self.path))
            raise
        # the next request of this connection begins behind the body of this one
        for _ in request.chunks():
            pass
        self._send(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def _response(self, request: Request) -> Response:
        state = self.server.state
        state.faults.raise_failure(request)
        if request.headers.get("Authorization", f"Bearer {state.token}") != f"Bearer {state.token}":
            raise HubError(401, "Invalid credentials in Authorization header")
        method = "GET" if self.command == "HEAD" else self.command
        for of_method, pattern, function in ROUTES:
            if of_method == method and (match := re.fullmatch(pattern, request.path)):
                names = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                if "kind" in names:
                    names["kind"] = names["kind"].removesuffix("s")
                return function(state, request, **names)
        state.unhandled.append((self.command, self.path))
        raise HubError(404, f"The local hub does not know {self.command} {self.path}")

    def _send(self, response: Response) -> None:
        if isinstance(response.body, Path):
            self._send_file(response.body, response.headers)
            return
        self._send_head(response.status, response.headers, length=len(response.body))
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def _send_head(self, status: int, headers: Mapping[str, str], *, length: int) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: Path, headers: Mapping[str, str]) -> None:
        """Sends a file, or the part of it that the request wants."""
        size = path.stat().st_size
        part = _part(self.headers.get("Range", ""), size)
        if part is None:
            self._send_head(416, {"Content-Range": f"bytes */{size}"}, length=0)
            return
        if len(part) < size:
            span = {"Content-Range": f"bytes {part.start}-{part.stop - 1}/{size}"}
            self._send_head(206, {**headers, **span}, length=len(part))
        else:
            self._send_head(200, headers, length=size)
        if self.command != "HEAD":
            self._send_part(path, part)

    def _send_part(self, path: Path, part: range) -> None:
        """Sends bytes of a file, all or up to where they are to be cut."""
        cut = self.server.state.faults.download_cut(len(part))
        left = len(part) if cut is None else cut
        with path.open("rb") as file:
            file.seek(part.start)
            while left:
                chunk = file.read(min(left, CHUNK_BYTES))
                self.wfile.write(chunk)
                left -= len(chunk)
        if cut is not None:
            raise ConnectionAbortedError("the download was to be cut here")


def _part(wanted: str, size: int) -> range | None:
    """Returns the bytes that a Range header wants, all without one, or None where the file has none of them."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
    if match is None:
        return range(size)
    return range(int(match[1]), min(int(match[2] or size - 1) + 1, size)) or None
