"""What `import encdec_slm` gives, and that it costs no more than the library's own models do."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.version import Version
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding
from transformers.pipelines import PIPELINE_REGISTRY

import encdec_slm


IMPORT = "import sys, json; import {}; print(json.dumps(sorted(sys.modules)))"


def fresh_process(modules, tmp_path):
    """Imports in a new process that shows all warnings; returns what it wrote and the names of the loaded modules."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", IMPORT.format(modules)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, loaded = done.stdout.splitlines()
    return printed, done.stderr, set(json.loads(loaded))


def test_import_is_silent_and_loads_what_the_library_s_own_models_load(tmp_path):
    printed, warned, loaded = fresh_process("encdec_slm", tmp_path)
    library_printed, library_warned, library = fresh_process(
        "transformers.modeling_utils, transformers.pipelines", tmp_path
    )
    assert printed == library_printed == []
    # warnings of the libraries themselves are theirs
    assert set(warned.splitlines()) <= set(library_warned.splitlines())
    ours = {name for name in loaded if name.split(".")[0] == "encdec_slm"}
    assert ours == {
        "encdec_slm",
        "encdec_slm.registration",
        "encdec_slm.models",
        "encdec_slm.models.configuration_encdec_slm",
        "encdec_slm.models.configuration_encdec_slm_vision",
        "encdec_slm.models.image_reading_encdec_slm",
        "encdec_slm.models.image_tokens_encdec_slm",
        "encdec_slm.models.modeling_encdec_slm",
        "encdec_slm.models.modeling_encdec_slm_layers",
        "encdec_slm.models.modeling_encdec_slm_vision",
        "encdec_slm.models.modeling_encdec_slm_vision_layers",
        "encdec_slm.models.pipeline_encdec_slm",
        "encdec_slm.models.processing_encdec_slm_vision",
        # the library learns of the quantiser before it reads a quantised folder
        "encdec_slm.quantization",
        "encdec_slm.quantization.linear",
        "encdec_slm.quantization.quantizer",
    }
    # of the others: those parts of Transformers that every model with `generate` imports, and no package more
    assert {name.split(".")[0] for name in loaded - library - ours} <= {"transformers"}
    assert {name for name in loaded - library if name.startswith("transformers.models.")} == set()


def test_names_are_those_that_are_announced():
    assert len(set(encdec_slm.__all__)) == len(encdec_slm.__all__)
    for name in encdec_slm.__all__:
        assert getattr(encdec_slm, name).__doc__
    assert set(encdec_slm.__all__) >= {"EncDecSLMConfig", "EncDecSLMForConditionalGeneration", "register"}
    assert Version(encdec_slm.__version__) >= Version("0.1")


def test_version_is_that_of_the_distribution():
    assert version("encdec-slm") == encdec_slm.__version__


def test_registered_classes_are_found_by_the_configuration(tiny_config):
    assert type(AutoConfig.for_model("encdec_slm")) is encdec_slm.EncDecSLMConfig
    for auto_class, model_class in (
        (AutoModel, encdec_slm.EncDecSLMModel),
        (AutoModelForSeq2SeqLM, encdec_slm.EncDecSLMForConditionalGeneration),
        (AutoModelForTextEncoding, encdec_slm.EncDecSLMEncoder),
    ):
        assert type(auto_class.from_config(tiny_config)) is model_class


def test_registering_again_changes_nothing_and_says_nothing(warnings_of_the_library):
    tasks = dict(PIPELINE_REGISTRY.supported_tasks)
    encdec_slm.register()
    assert PIPELINE_REGISTRY.supported_tasks == tasks
    assert warnings_of_the_library() == []
    _, task, _ = PIPELINE_REGISTRY.check_task("text2text-generation")
    assert task["impl"] is encdec_slm.Text2TextGenerationPipeline


def test_a_pipeline_of_another_package_is_kept(monkeypatch):
    class Other(encdec_slm.Text2TextGenerationPipeline):
        pass

    task = {**PIPELINE_REGISTRY.supported_tasks["text2text-generation"], "impl": Other}
    monkeypatch.setitem(PIPELINE_REGISTRY.supported_tasks, "text2text-generation", task)
    encdec_slm.register()
    assert PIPELINE_REGISTRY.check_task("text2text-generation")[1]["impl"] is Other


@pytest.mark.parametrize("name", ["summarization", "translation"])
def test_other_removed_tasks_stay_removed(name):
    with pytest.raises(KeyError):
        PIPELINE_REGISTRY.check_task(name)
