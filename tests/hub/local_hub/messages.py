"""What goes over the wire: a request whose body is a stream, the response to it, the errors that the Hub names."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


CHUNK_BYTES = 1 << 16


class HubError(Exception):
    """An answer with an error status; the client chooses its exception by the code, and shows the message."""

    def __init__(self, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> "Response":
        names = {"X-Error-Message": self.message} | ({"X-Error-Code": self.code} if self.code else {})
        return Response.json({"error": self.message}, status=self.status, headers=self.headers | names)


class RequestBody(io.RawIOBase):
    """The bytes of one request, whether they come with a length or in chunks; nothing is read ahead of it."""

    def __init__(self, connection: io.BufferedIOBase, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self._is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self._left = 0 if self._is_chunked else int(headers.get("Content-Length") or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left == 0 and self._is_chunked:
            self._begin_chunk()
        wanted = min(len(buffer), self._left)
        data = self._connection.read(wanted)
        if len(data) < wanted:
            raise ConnectionAbortedError("the client went away in the middle of a request")
        buffer[:wanted] = data
        self._left -= wanted
        if self._left == 0 and self._is_chunked and wanted:
            self._connection.readline()
        return wanted

    def _begin_chunk(self) -> None:
        self._left = int(self._connection.readline().split(b";")[0], 16)
        if self._left == 0:
            self._connection.readline()
            self._is_chunked = False


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: io.BufferedReader

    def json(self) -> Any:
        return json.loads(self.body.read() or b"{}")

    def chunks(self) -> Iterator[bytes]:
        return iter(lambda: self.body.read1(CHUNK_BYTES), b"")

    def first(self, name: str, default: str = "") -> str:
        """Returns the first value of a parameter of the query."""
        return self.query.get(name, [default])[0]


@dataclass(frozen=True)
class Response:
    """An answer; a body that is a path is streamed from disk, and the part that a Range header asks for."""

    status: int = 200
    body: bytes | Path = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        body = json.dumps(content, default=str).encode()
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})
