"""Checkpoints for the tests of loading: whole ones, and what somebody with bad intentions would make of them."""

import json
import struct
from pathlib import Path

import torch
from foreign_models import t5
from huggingface_hub import HfApi
from model_tester import ModelTester


# two files, as a model has them; when they are run they leave a file behind
FOREIGN_CODE = {
    "configuration_foreign.py": """
from transformers import T5Config


class ForeignConfig(T5Config):
    model_type = "foreign"
""",
    "modeling_foreign.py": """
from pathlib import Path

from transformers import T5ForConditionalGeneration

from .configuration_foreign import ForeignConfig

Path("MARKER").write_text("run")
VERSION = "1"


class Foreign(T5ForConditionalGeneration):
    config_class = ForeignConfig
    version = VERSION
""",
}
FOREIGN_AUTO_MAP = {
    "AutoConfig": "configuration_foreign.ForeignConfig",
    "AutoModelForSeq2SeqLM": "modeling_foreign.Foreign",
}


def save_checkpoint(folder, tokenizer=None, model=None, **options):
    """Saves a model of ours, the tiny one if none is given, with its code; returns the folder."""
    (model or ModelTester().model()).save_pretrained(folder, **options)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def foreign_code(marker):
    """Returns the files of `FOREIGN_CODE`; the file `marker` is written when they are run."""
    return {name: text.replace("MARKER", str(marker)) for name, text in FOREIGN_CODE.items()}


def edit_json(path, **changes):
    """Changes a JSON file; a key such as `encoder.hidden_size` lies in an object below."""
    fields = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split(".")
        place = fields
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(fields))


def file_bytes(folder):
    """Returns the contents of a folder, as a hub takes them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def write_safetensors(path, header, data=b"", *, header_bytes=None):
    """Writes a safetensors file by hand, so that it can lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if header_bytes is None else header_bytes) + text + data)
    return path


@torch.no_grad()
def logits(model, inputs):
    """Returns what a model computes, without dropout."""
    return model.eval()(**inputs).logits


def commit(hub, repo_id, **changes):
    """Commits files to a repository, and returns the commit."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    for path, content in changes.items():
        info = api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo_id)
    return info.oid


def head(hub, repo_id):
    """Returns the latest commit of a repository."""
    return hub.commits(repo_id)[0].sha


def foreign_repository(hub, folder, marker, **auto_map):
    """Adds a repository of a type that is not installed, whose code writes a file when it runs."""
    save_checkpoint(folder, model=t5())
    edit_json(folder / "config.json", model_type="foreign", auto_map=FOREIGN_AUTO_MAP | auto_map)
    code = {name: text.encode() for name, text in foreign_code(marker).items()}
    hub.add_repository("tester/foreign", file_bytes(folder) | code)
