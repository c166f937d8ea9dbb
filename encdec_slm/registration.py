"""The one place that tells Transformers about our classes: Auto classes, remote code, the pipeline registry."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding, pipelines
from transformers.pipelines import PIPELINE_REGISTRY

from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.modeling_encdec_slm import (
    EncDecSLMEncoder,
    EncDecSLMForConditionalGeneration,
    EncDecSLMModel,
)
from encdec_slm.models.pipeline_encdec_slm import Text2TextGenerationPipeline


TEXT2TEXT_TASK = "text2text-generation"


def register() -> None:
    """Makes the Auto classes and `pipeline` know our models, and `save_pretrained` ship their code.

    Safe to call again. `import encdec_slm` calls it.
    """
    AutoConfig.register(EncDecSLMConfig.model_type, EncDecSLMConfig, exist_ok=True)
    EncDecSLMConfig.register_for_auto_class()
    for auto_class, model_class in (
        (AutoModel, EncDecSLMModel),
        (AutoModelForSeq2SeqLM, EncDecSLMForConditionalGeneration),
        (AutoModelForTextEncoding, EncDecSLMEncoder),
    ):
        auto_class.register(EncDecSLMConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class.__name__)
    register_text2text_pipeline()


def register_text2text_pipeline() -> None:
    """Brings `pipeline("text2text-generation")` back, for every model of `AutoModelForSeq2SeqLM`."""
    # Transformers >= 5.17 refuses the names of this table before it asks its registry; before, there was none
    getattr(pipelines, "REMOVED_TASKS", {}).pop(TEXT2TEXT_TASK, None)
    if TEXT2TEXT_TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TEXT2TEXT_TASK,
            pipeline_class=Text2TextGenerationPipeline,
            pt_model=AutoModelForSeq2SeqLM,
            type="text",
        )
    EncDecSLMConfig.has_registered_pipelines = True
