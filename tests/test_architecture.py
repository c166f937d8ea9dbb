"""Which folder may import which, and how large a file may grow: the picture of the design, kept true.

cli, examples, tests -> everything;  __init__ -> registration -> models, quantization -> torch, transformers
hub, conversion, export -> registration, models;  conversion, export -> output_folder
adaptation, distillation -> data_files, parameter_groups;  benchmarks -> distillation
evaluation -> data_files;  evaluation, benchmarks -> processor_name
data_files, image_text_collator, output_folder, parameter_groups, processor_name -> none of ours
"""

import ast
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports

import encdec_slm


PACKAGE = Path(encdec_slm.__file__).parent
ROOT = PACKAGE.parent
SHIPPED = sorted((PACKAGE / "models").glob("[!_]*.py"))
# what those who load a checkpoint have: Transformers and what it needs itself
INSTALLED_WITH_TRANSFORMERS = {"torch", "transformers", "huggingface_hub"}
# and what a file may import in a function, for those who have images to read
INSTALLED_WITH_IMAGES = {"image_reading_encdec_slm.py": {"PIL"}}
# of ours, beside what lies in the same folder
MAY_IMPORT = {
    "__init__.py": {"registration", "models"},
    "registration.py": {"models", "quantization"},
    "cli.py": {
        "__init__",
        "output_folder",
        "registration",
        "models",
        "conversion",
        "adaptation",
        "distillation",
        "evaluation",
        "benchmarks",
        "export",
        "hub",
    },
    "models": set(),
    "quantization": set(),
    "conversion": {"output_folder", "registration", "models"},
    "export": {"output_folder", "registration", "models"},
    "hub": {"registration", "models"},
    # a comparison is fair where the code cannot know which model is ours
    "adaptation": {"data_files", "parameter_groups"},
    "distillation": {"data_files", "parameter_groups"},
    "data_files.py": set(),
    "image_text_collator.py": set(),
    "output_folder.py": set(),
    "parameter_groups.py": set(),
    "processor_name.py": set(),
    "evaluation": {"data_files", "processor_name"},
    # the memory of its loss; it does not know which model is ours either
    "benchmarks": {"distillation", "processor_name"},
}
MOST_LINES = {PACKAGE / "models/modeling_encdec_slm.py": 650}


def python_files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if "fixtures" not in path.parts)


def imports(path):
    """Returns (level, module) of every import statement of a file, also of those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "encdec_slm":
            # a name of the package, or one of its parts
            names = [alias.name for alias in node.names]
            found += [(0, f"encdec_slm.{name}" if (PACKAGE / name).exists() else "encdec_slm") for name in names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def parts_of_ours(path):
    """Returns which parts of the package a file imports, by the names of the picture."""
    modules = [module.split(".") for level, module in imports(path) if level == 0]
    return {parts[1] if len(parts) > 1 else "__init__" for parts in modules if parts[0] == "encdec_slm"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_file_imports_only_siblings_and_transformers(path):
    for level, module in imports(path):
        if level:
            assert level == 1, f"{path.name} imports from a parent folder: it cannot be shipped"
            assert (path.parent / f"{module}.py").is_file(), f"{path.name}: write `from .sibling import name`"
        else:
            installed = INSTALLED_WITH_TRANSFORMERS | INSTALLED_WITH_IMAGES.get(path.name, set())
            assert module.split(".")[0] in installed | sys.stdlib_module_names
    # the library reads the text, and with it the comments and docstrings that look like an import
    assert {f"{name}.py" for name in get_relative_imports(path)} <= {sibling.name for sibling in SHIPPED}


def test_every_part_has_its_place_in_the_picture():
    parts = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", python_files("encdec_slm"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_parts_import_what_the_picture_says(path):
    part = path.relative_to(PACKAGE).parts[0]
    # a file at the top is no folder: it has no neighbours
    neighbours = set() if path.parent == PACKAGE else {part}
    assert parts_of_ours(path) <= MAY_IMPORT[part] | neighbours


@pytest.mark.parametrize(
    "path", python_files("encdec_slm", "examples", "tests"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES.get(path, 400)


def test_the_reader_of_imports_sees_all_kinds(tmp_path):
    (tmp_path / "file.py").write_text(
        "import os.path, encdec_slm.hub\nfrom . import a\nfrom ..b import c\nfrom encdec_slm import EncDecSLMConfig\n"
        "def f():\n    from encdec_slm import models\n    from encdec_slm.export.onnx import export\n"
    )
    assert {(1, ""), (2, "b"), (0, "os.path")} < set(imports(tmp_path / "file.py"))
    assert parts_of_ours(tmp_path / "file.py") == {"hub", "__init__", "models", "export"}
