"""Answers about the user, and requests that create, delete and list whole repositories."""

import yaml

from .messages import HubError, Request, Response
from .state import HubState
from .storage import Repository, small_entry


# what the real Hub writes into a new repository, the part of it that matters to models
# fmt: off
LARGE_SUFFIXES = (
    ".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".gz", ".h5", ".model", ".msgpack", ".npy", ".npz", ".onnx",
    ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tflite", ".xz", ".zip", ".zst",
)
# fmt: on
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()


def who_am_i(hub: HubState, request: Request) -> Response:
    if not hub.is_signed_in(request):
        raise HubError(401, "Invalid username or password.")
    organizations = [{"name": name, "type": "org", "roleInOrg": "write"} for name in hub.organizations]
    token = {"type": "access_token", "accessToken": {"displayName": "local", "role": "write"}}
    user = {"type": "user", "id": hub.user, "name": hub.user, "fullname": hub.user, "isPro": False}
    return Response.json(user | {"orgs": organizations, "auth": token})


def agent_harnesses(hub: HubState, request: Request) -> Response:
    """Knows of no program that runs the client; the `hf` command asks."""
    return Response.json({"standardEnvVars": [], "harnesses": {}})


def validate_yaml(hub: HubState, request: Request) -> Response:
    """Says what is wrong with the metadata block of a model card."""
    content = request.json()["content"]
    if not content.startswith("---"):
        return Response.json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        yaml.safe_load(content.split("---")[1])
    except yaml.YAMLError as error:
        message = f"Invalid YAML metadata: {error}"
        return Response.json({"error": message, "errors": [{"message": message}], "warnings": []}, status=400)
    return Response.json({"errors": [], "warnings": []})


def create_repository(hub: HubState, request: Request) -> Response:
    wanted = request.json()
    kind, owner = wanted.get("type") or "model", wanted.get("organization") or hub.user
    hub.require_user(request, owner=owner)
    hub.blobs.write([GIT_ATTRIBUTES], sha256=small_entry(GIT_ATTRIBUTES).sha256)
    repo_id = f"{owner}/{wanted['name']}"
    private = wanted.get("visibility") == "private"
    files = {".gitattributes": small_entry(GIT_ATTRIBUTES)}
    is_new = hub.add(Repository(kind, repo_id, private=private, files=files))
    url = f"{hub.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
    answer = {"url": url, "name": repo_id, "id": repo_id}
    if is_new:
        return Response.json(answer)
    return Response.json(answer | {"error": f"You already created this {kind} repo"}, status=409)


def delete_repository(hub: HubState, request: Request) -> Response:
    unwanted = request.json()
    kind, owner = unwanted.get("type") or "model", unwanted.get("organization") or hub.user
    repository = hub.writable(request, kind, f"{owner}/{unwanted['name']}")
    hub.repositories.pop((repository.kind, repository.id), None)
    return Response.json({})


def list_repositories(hub: HubState, request: Request, kind: str) -> Response:
    author, search = request.first("author"), request.first("search")
    found = [
        repository
        for repository in list(hub.repositories.values())
        if repository.kind == kind and author in ("", repository.owner) and search in repository.id
        if not repository.private or (hub.is_signed_in(request) and hub.is_member(repository.owner))
    ]
    return Response.json(
        [{"id": r.id, "modelId": r.id, "private": r.private, "tags": [], "sha": r.at("main").sha} for r in found]
    )
