"""Answers about what a repository holds, and its files."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

import yaml

from .messages import HubError, Request, Response
from .state import HubState
from .storage import Commit, Entry, Repository


def refs(hub: HubState, request: Request, kind: str, repo_id: str) -> Response:
    repository = hub.readable(request, kind, repo_id)

    def listed(names: Mapping[str, str], folder: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": sha} for name, sha in dict(names).items()
        ]

    branches, tags = listed(repository.branches, "heads"), listed(repository.tags, "tags")
    return Response.json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def commits(hub: HubState, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    history = hub.readable(request, kind, repo_id).history(revision)
    authors = [{"user": hub.user}]
    return Response.json(
        [{"id": c.sha, "title": c.message, "message": "", "authors": authors, "date": c.date} for c in history]
    )


def info(hub: HubState, request: Request, kind: str, repo_id: str, revision: str = "main") -> Response:
    repository = hub.readable(request, kind, repo_id)
    commit = repository.at(revision)
    with_sizes = request.first("blobs").lower() in ("true", "1")
    names = {"_id": repo_id, "id": repo_id, "modelId": repo_id, "author": repository.owner, "sha": commit.sha}
    counts = {"private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
    dates = {"createdAt": repository.history("main")[-1].date, "lastModified": commit.date}
    siblings = [_sibling(path, entry, with_sizes=with_sizes) for path, entry in sorted(commit.files.items())]
    return Response.json(names | counts | dates | {"siblings": siblings} | _described(hub, repository, commit))


def _sibling(path: str, entry: Entry, *, with_sizes: bool) -> dict[str, Any]:
    if not with_sizes:
        return {"rfilename": path}
    sizes = {"rfilename": path, "size": entry.size, "blobId": entry.oid}
    return sizes | ({"lfs": _pointer(entry) | {"sha256": entry.sha256}} if entry.is_large else {})


def _described(hub: HubState, repository: Repository, commit: Commit) -> dict[str, Any]:
    """Returns what the Hub takes from a repository's card and configuration."""
    described: dict[str, Any] = {"tags": []}
    if repository.kind == "model" and "config.json" in commit.files:
        config = json.loads(hub.read(commit.files["config.json"]))
        names = ("architectures", "model_type", "auto_map")
        described |= {"config": {name: config[name] for name in names if name in config}}
        described |= {"library_name": "transformers"}
    if "README.md" in commit.files:
        card = _metadata(hub.read(commit.files["README.md"]).decode())
        described |= {"cardData": card, "tags": list(card.get("tags") or [])}
        described |= {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
    return described


def _metadata(card: str) -> dict[str, Any]:
    """Returns the YAML block at the head of a card."""
    return yaml.safe_load(card.split("\n---", 1)[0]) or {} if card.startswith("---\n") else {}


def tree(hub: HubState, request: Request, kind: str, repo_id: str, revision: str, path: str = "") -> Response:
    files = hub.readable(request, kind, repo_id).at(revision).files
    prefix = f"{path}/" if path else ""
    below = {name.removeprefix(prefix): entry for name, entry in files.items() if name.startswith(prefix)}
    if path and not below:
        raise HubError(404, f"{path} does not exist on {revision!r}", code="EntryNotFound")
    is_deep = request.first("recursive").lower() in ("true", "1")
    entries = [_entry(prefix + name, entry) for name, entry in below.items() if is_deep or "/" not in name]
    folders = {parent for name in below for parent in _parents(name) if is_deep or "/" not in parent}
    return Response.json(sorted(entries + [_folder(prefix + name) for name in folders], key=lambda e: e["path"]))


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _pointer(entry: Entry) -> dict[str, Any]:
    return {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}


def _entry(path: str, entry: Entry) -> dict[str, Any]:
    described = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
    if entry.is_large:
        described["lfs"] = _pointer(entry)
    if entry.xet_hash:
        described["xetHash"] = entry.xet_hash
    return described


def paths_info(hub: HubState, request: Request, kind: str, repo_id: str, revision: str) -> Response:
    if request.headers.get("Content-Type", "").startswith("application/json"):
        paths = request.json()["paths"]
    else:
        paths = parse_qs(request.body.read().decode()).get("paths", [])
    files = hub.readable(request, kind, repo_id).at(revision).files
    return Response.json([_entry(path, files[path]) for path in paths if path in files])


def resolve(hub: HubState, request: Request, repo_id: str, revision: str, path: str, kind: str = "model") -> Response:
    """Answers with a file, or for a large one with where it lies and what it is."""
    repository = hub.readable(request, kind, repo_id)
    commit = repository.at(revision)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    entry = commit.files.get(path)
    if entry is None:
        raise HubError(404, "Entry not found", code="EntryNotFound", headers=headers)
    if not entry.is_large:
        return Response(200, hub.blobs.path(entry.sha256), headers | {"ETag": f'"{entry.oid}"'})
    headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"'}
    if entry.xet_hash:
        token_url = f"{hub.url}/api/{repository.kind}s/{repo_id}/xet-read-token/{commit.sha}"
        headers |= {"X-Xet-Hash": entry.xet_hash, "Link": f'<{token_url}>; rel="xet-auth"'}
    return Response(302, headers=headers | {"Location": f"{hub.contents_url}/contents/{entry.sha256}"})


def content(hub: HubState, request: Request, sha256: str) -> Response:
    """Answers with a large file, to whoever knows its address."""
    if not hub.blobs.has(sha256):
        raise HubError(404, "No such content")
    return Response(200, hub.blobs.path(sha256), {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})
