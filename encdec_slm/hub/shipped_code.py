"""The code that a published folder brings along: that of the installed package, as its configurations name it."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from encdec_slm import models
from encdec_slm.hub.checkpoint import CONFIG
from encdec_slm.hub.checkpoint_files import read_json_object
from encdec_slm.hub.code_files import CONFIG_FILES, INSTALLED, code_files, code_references


USUAL_AUTO_CLASS = "AutoModelForSeq2SeqLM"


def complete_config(folder: Path) -> str:
    """Makes the `config.json` of a model of this package name all of its code.

    `AutoModel` and `pipeline` then work too, whatever saved the folder. Models of Transformers need none.

    Args:
        folder: Folder that is changed.

    Returns:
        The name of the Auto class that loads the model.

    Raises:
        ValueError: If there is no configuration, or its type is unknown.
    """
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"the model folder has no {CONFIG}: name one that save_pretrained has written")
    fields = read_json_object(path)
    if fields.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(
            f"{CONFIG} is of model type {fields.get('model_type')!r}, which is not known here: this command is for "
            "models of encdec_slm and Transformers, `hf upload` for all others"
        )
    if not CONFIG_MAPPING[fields["model_type"]].__module__.startswith(f"{models.__name__}."):
        return USUAL_AUTO_CLASS
    complete = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    write_json(path, fields | {name: complete[name] for name in ("auto_map", "custom_pipelines") if name in complete})
    architecture = (fields.get("architectures") or [""])[0]
    auto_classes = [name for name, code in complete["auto_map"].items() if code.endswith(f".{architecture}")]
    return auto_classes[0] if auto_classes else USUAL_AUTO_CLASS


def make_code_local(folder: Path) -> None:
    """Lets configurations that name our code in another repository name the code beside them.

    Args:
        folder: Folder that is changed.

    Raises:
        ValueError: If a configuration needs code that is not of this package.
    """
    for path in sorted(path for pattern in CONFIG_FILES for path in folder.glob(pattern)):
        write_json(path, _with_local_code(read_json_object(path)))
    for reference in code_references(folder):
        if not (INSTALLED / f"{reference.module}.py").is_file():
            raise ValueError(
                f"{reference.named_by} needs {reference.module}.py for {reference.key}, which is not code of "
                "encdec_slm: push such a folder with `hf upload`"
            )


def add_code(folder: Path) -> None:
    """Writes the installed code that the configurations of a folder name, and what that imports.

    Args:
        folder: Folder that is changed.
    """
    for file in code_files(code_references(folder), INSTALLED):
        # what lies there may be a link to a file of the user
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).write_bytes((INSTALLED / file.name).read_bytes())


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes a JSON object if the file does not hold it yet; what a link points to stays as it is."""
    if fields != read_json_object(path):
        path.unlink()
        path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _with_local_code(fields: dict[str, Any]) -> dict[str, Any]:
    def local(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: local(entry) for name, entry in value.items()}
        if isinstance(value, list):
            return [local(entry) for entry in value]
        return value.rpartition("--")[2] if isinstance(value, str) else value

    def changed(name: str, value: Any) -> Any:
        if name in ("auto_map", "custom_pipelines"):
            return local(value)
        # the configuration of an image processor lies in that of the processor
        return _with_local_code(value) if isinstance(value, dict) else value

    return {name: changed(name, value) for name, value in fields.items()}
