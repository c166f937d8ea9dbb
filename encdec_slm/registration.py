"""The one place that tells Transformers about our classes: Auto classes, remote code, pipelines, quantisers."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
    AutoProcessor,
    pipelines,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig
from encdec_slm.models.modeling_encdec_slm import (
    EncDecSLMEncoder,
    EncDecSLMForConditionalGeneration,
    EncDecSLMModel,
)
from encdec_slm.models.modeling_encdec_slm_vision import (
    EncDecSLMVisionForConditionalGeneration,
    EncDecSLMVisionModel,
)
from encdec_slm.models.pipeline_encdec_slm import Text2TextGenerationPipeline
from encdec_slm.models.processing_encdec_slm_vision import EncDecSLMVisionProcessor
from encdec_slm.quantization.quantizer import METHOD, CpuQuantizationConfig, CpuQuantizer


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
    register_vision()
    register_text2text_pipeline()
    register_quantizer()


def register_vision() -> None:
    """Makes the Auto classes know the vision model.

    It answers texts without images too, so that `AutoModelForSeq2SeqLM` has it, as it has T5Gemma 2. Its image
    processor is one of the library's, which `AutoImageProcessor` finds by its name.
    """
    AutoConfig.register(EncDecSLMVisionConfig.model_type, EncDecSLMVisionConfig, exist_ok=True)
    EncDecSLMVisionConfig.register_for_auto_class()
    for auto_class, model_class in (
        (AutoModel, EncDecSLMVisionModel),
        (AutoModelForSeq2SeqLM, EncDecSLMVisionForConditionalGeneration),
        (AutoModelForImageTextToText, EncDecSLMVisionForConditionalGeneration),
    ):
        auto_class.register(EncDecSLMVisionConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class.__name__)
    AutoProcessor.register(EncDecSLMVisionConfig, EncDecSLMVisionProcessor, exist_ok=True)
    EncDecSLMVisionProcessor.register_for_auto_class()
    # `pipeline("image-text-to-text")` logs an error for classes that are not in this table, those of an export too
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[EncDecSLMVisionConfig.model_type] = (
        EncDecSLMVisionForConditionalGeneration.__name__
    )
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[f"{EncDecSLMVisionConfig.model_type}_onnx"] = "ORTEncDecSLMVision"


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


def register_quantizer() -> None:
    """Makes `from_pretrained` know weights of 8 and 4 bits for a CPU."""
    # `register_quantizer` of the library refuses a name that it knows
    AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = CpuQuantizationConfig
    AUTO_QUANTIZER_MAPPING[METHOD] = CpuQuantizer
