"""Requests that change a repository: uploads, commits, branches and tags."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

from .accounts import LARGE_SUFFIXES
from .messages import HubError, Request, Response
from .state import HubState
from .storage import Entry, small_entry


LARGE_BYTES = 10 * 2**20


def is_large(path: str, size: int) -> bool:
    return path.endswith(LARGE_SUFFIXES) or size > LARGE_BYTES


def preupload(hub: HubState, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    """Says how each file is to be uploaded, and what is there under its name: the client skips what is equal."""
    wanted = request.json()["files"]
    commit = hub.writable(request, kind, repo_id).at(revision)

    def answer(path: str, size: int) -> dict[str, Any]:
        mode = {"path": path, "uploadMode": "lfs" if is_large(path, size) else "regular", "shouldIgnore": False}
        if (there := commit.files.get(path)) is None:
            return mode
        return mode | {"oid": there.sha256 if there.is_large else there.oid}

    return Response.json({"files": [answer(file["path"], file["size"]) for file in wanted], "commitOid": commit.sha})


def announce_large_files(hub: HubState, request: Request, repo_id: str, kind: str = "model") -> Response:
    """Says where to upload each large file that is not there yet (the batch request of Git LFS)."""
    hub.writable(request, kind, repo_id)

    def answer(oid: str, size: int) -> dict[str, Any]:
        known = {"oid": oid, "size": size, "authenticated": True}
        if hub.blobs.has(oid):
            return known
        upload, verify = f"{hub.contents_url}/contents/{oid}", f"{hub.url}/contents/verify"
        return known | {"actions": {"upload": {"href": upload}, "verify": {"href": verify}}}

    objects = [answer(wanted["oid"], wanted["size"]) for wanted in request.json()["objects"]]
    return Response.json({"transfer": "basic", "objects": objects})


def upload_content(hub: HubState, request: Request, sha256: str) -> Response:
    """Stores a large file as it comes."""
    size = int(request.headers.get("Content-Length") or 0)
    hub.blobs.write(_until_cut(request.chunks(), hub.faults.upload_cut(size)), sha256=sha256)
    return Response()


def _until_cut(chunks: Iterator[bytes], end: int | None) -> Iterator[bytes]:
    for chunk in chunks:
        if end is not None and len(chunk) > end:
            yield chunk[:end]
            raise ConnectionAbortedError("the upload was to be cut here")
        end = None if end is None else end - len(chunk)
        yield chunk


def verify_content(hub: HubState, request: Request) -> Response:
    wanted = request.json()
    path = hub.blobs.path(wanted["oid"])
    if not path.is_file() or path.stat().st_size != wanted["size"]:
        raise HubError(404, f"{wanted['oid']} was not uploaded with {wanted['size']} bytes")
    return Response.json({})


def xet_token(hub: HubState, request: Request, kind: str, repo_id: str, mode: str, revision: str) -> Response:
    """Says where the contents lie that go by Xet; the client needs no more than that for a folder."""
    repository = hub.writable(request, kind, repo_id) if mode == "write" else hub.readable(request, kind, repo_id)
    files = repository.at(revision).files.values()
    if hub.xet is None:
        raise HubError(404, "This hub was started without Xet: set HF_HUB_DISABLE_XET=1, or start it with use_xet.")
    if mode == "write":
        address = hub.xet.for_upload()
    else:
        address = hub.xet.for_download({hub.blobs.path(entry.sha256) for entry in files if entry.xet_hash})
    end = str(int(time.time()) + 3600)
    headers = {"X-Xet-Cas-Url": address, "X-Xet-Access-Token": "local", "X-Xet-Token-Expiration": end}
    return Response.json({"casUrl": address, "accessToken": "local", "exp": int(end)}, headers=headers)


def commit(hub: HubState, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    """Puts a commit on a branch. Contents are stored first: none is stored while others wait for the branch."""
    repository = hub.writable(request, kind, repo_id)
    header, *changes = [json.loads(line) for line in request.body if line.strip()]
    added = {
        change["value"]["path"]: _stored(hub, change["key"], change["value"])
        for change in changes
        if change["key"] in ("file", "lfsFile")
    }

    def change_files(files: dict[str, Entry]) -> None:
        for change in changes:
            _change_file(files, change["key"], change["value"]["path"], added)

    made = repository.commit(
        revision, change_files, message=header["value"]["summary"], parent=header["value"].get("parentCommit")
    )
    url = f"{hub.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}/commit/{made.sha}"
    return Response.json({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


def _stored(hub: HubState, key: str, value: dict[str, Any]) -> Entry:
    """Returns the entry of an added file, once its content is in the store."""
    if key == "file":
        content = base64.b64decode(value["content"])
        hub.blobs.write([content], sha256=small_entry(content).sha256)
        return small_entry(content)
    sha256 = value["oid"]
    if not hub.blobs.has(sha256):
        uploaded = hub.xet.uploaded(sha256, value["size"]) if hub.xet else None
        if uploaded is None:
            raise HubError(400, f"The content {sha256} of {value['path']} was not uploaded")
        hub.blobs.write(uploaded, sha256=sha256)
    return hub.large_entry(sha256)


def _change_file(files: dict[str, Entry], key: str, path: str, added: dict[str, Entry]) -> None:
    if key in ("file", "lfsFile"):
        files[path] = added[path]
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, f"A file with the name {path!r} doesn't exist", code="EntryNotFound")
    elif key == "deletedFolder":
        for name in [name for name in files if name.startswith(f"{path.rstrip('/')}/")]:
            del files[name]
    else:
        raise HubError(400, f"A commit cannot hold {key!r}")


def create_branch(hub: HubState, request: Request, kind: str, repo_id: str, branch: str) -> Response:
    start = request.json().get("startingPoint", "main")
    hub.writable(request, kind, repo_id).add_branch(branch, start)
    return Response.json({})


def delete_branch(hub: HubState, request: Request, kind: str, repo_id: str, branch: str) -> Response:
    repository = hub.writable(request, kind, repo_id)
    return _delete_name(repository.branches, branch, protected="main")


def create_tag(hub: HubState, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    hub.writable(request, kind, repo_id).add_tag(request.json()["tag"], revision)
    return Response.json({})


def delete_tag(hub: HubState, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    return _delete_name(hub.writable(request, kind, repo_id).tags, revision)


def _delete_name(names: dict[str, str], name: str, *, protected: str | None = None) -> Response:
    if name == protected:
        raise HubError(403, f"The default branch {name!r} cannot be deleted")
    if names.pop(name, None) is None:
        raise HubError(404, f"Invalid rev id: {name}", code="RevisionNotFound")
    return Response.json({})
