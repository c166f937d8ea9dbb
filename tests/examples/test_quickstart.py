"""The notebook as a reader runs it: a new kernel, all cells in order, a Hub that takes nothing."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from local_hub import LocalHub
from nbclient import NotebookClient
from traitlets.config import Config


NOTEBOOK = Path(__file__).parents[2] / "examples/quickstart.ipynb"
READING = {"GET", "HEAD"}


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


@pytest.fixture(scope="module")
def run(notebook, tmp_path_factory):
    """What the cells printed, the folder in which they ran, and what the Hub was asked."""
    folder = tmp_path_factory.mktemp("quickstart")
    executed = nbformat.from_dict(notebook)
    # through files of this user, not through ports
    config = Config({"KernelManager": {"transport": "ipc", "ip": str(folder / "kernel")}})
    client = NotebookClient(executed, config=config, timeout=900, resources={"metadata": {"path": str(folder)}})
    with LocalHub() as hub:
        environment = os.environ | hub.environment(folder / "home")
        # as before a login
        environment["HF_TOKEN"] = ""
        client.execute(env=environment)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    return SimpleNamespace(cells=executed.cells, folder=folder, printed=printed, requests=hub.requests)


def test_it_is_committed_without_what_a_run_leaves(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None and not cell.outputs for cell in code)


def test_nothing_is_installed_where_the_package_is(run):
    first = next(cell for cell in run.cells if cell.cell_type == "code")
    assert "%pip install" in first.source
    assert first.outputs == []


def test_both_trainings_teach_the_task(run):
    right = {name: int(number) for name, number in re.findall(r"right, (\S+): (\d+) of 200", run.printed)}
    assert right.keys() == {"untrained", "fine-tuned", "distilled"}
    assert right["untrained"] < 20
    assert min(right["fine-tuned"], right["distilled"]) > 180


def test_the_saved_folder_is_whole_and_answers(run):
    saved = {path.name for path in (run.folder / "outputs/telephone").iterdir()}
    assert saved >= {"model.safetensors", "config.json", "tokenizer.json", "modeling_encdec_slm.py"}
    before, after = re.findall(r"\[\{'generated_text': '(.*)'\}\]", run.printed)
    assert before != after
    # its first word is that of the first letter
    assert after.startswith("charlie")


def test_the_exported_model_answers_as_the_saved_one(run):
    (exported,) = re.findall(r"exported: (.*)", run.printed)
    assert exported.startswith("charlie")
    assert (run.folder / "outputs/telephone_onnx/export.json").is_file()


def test_the_dry_run_shows_the_plan_and_sends_nothing(run):
    assert "model.safetensors" in run.printed
    assert "dry run: nothing was sent" in run.printed
    assert run.requests
    assert {method for method, _ in run.requests} <= READING
