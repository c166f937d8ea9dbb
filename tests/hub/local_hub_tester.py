"""A repository's files, and the client, for the laws of the local Hub."""

import random
from pathlib import Path

from huggingface_hub import HfApi


REPO = "tester/model"
WEIGHTS = random.Random(0).randbytes(300_000)
CARD = b"---\nlicense: mit\npipeline_tag: text2text-generation\ntags: [small]\ndate: 2026-01-31\n---\n# A model\n"
FILES = {"README.md": CARD, "config.json": b'{"model_type": "t5"}', "code/é one.py": b"", "model.safetensors": WEIGHTS}


def write_folder(folder, files=FILES):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_folder(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def client(hub, token=None):
    return HfApi(endpoint=hub.url, token=hub.token if token is None else token)


def large_contents(hub, method):
    """Returns the requests by which large files came or went, Xet's not among them."""
    return [path for of_method, path in hub.requests if of_method == method and path.startswith("/contents/")]
