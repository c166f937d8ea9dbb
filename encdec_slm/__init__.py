"""Small encoder-decoder language models for Transformers. Importing this package registers them."""

from encdec_slm.models.configuration_encdec_slm import (
    EncDecSLMConfig,
    EncDecSLMDecoderConfig,
    EncDecSLMEncoderConfig,
)
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig, EncDecSLMVisionEncoderConfig
from encdec_slm.models.modeling_encdec_slm import (
    EncDecSLMEncoder,
    EncDecSLMForConditionalGeneration,
    EncDecSLMModel,
    EncDecSLMPreTrainedModel,
)
from encdec_slm.models.modeling_encdec_slm_vision import (
    EncDecSLMVisionForConditionalGeneration,
    EncDecSLMVisionModel,
    EncDecSLMVisionPreTrainedModel,
)
from encdec_slm.models.pipeline_encdec_slm import Text2TextGenerationPipeline
from encdec_slm.models.processing_encdec_slm_vision import EncDecSLMVisionProcessor
from encdec_slm.registration import register


__version__ = "0.1.0"

register()

__all__ = [
    "EncDecSLMConfig",
    "EncDecSLMDecoderConfig",
    "EncDecSLMEncoder",
    "EncDecSLMEncoderConfig",
    "EncDecSLMForConditionalGeneration",
    "EncDecSLMModel",
    "EncDecSLMPreTrainedModel",
    "EncDecSLMVisionConfig",
    "EncDecSLMVisionEncoderConfig",
    "EncDecSLMVisionForConditionalGeneration",
    "EncDecSLMVisionModel",
    "EncDecSLMVisionPreTrainedModel",
    "EncDecSLMVisionProcessor",
    "Text2TextGenerationPipeline",
    "__version__",
    "register",
]
