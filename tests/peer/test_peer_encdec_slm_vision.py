"""The common model and configuration tests of Transformers, on our vision-text classes."""

import unittest
from typing import ClassVar

import torch
from model_tester import FIRST_WORD, VOCAB_SIZE
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from vision_tester import IMAGE_TOKEN_ID, VisionTester

from encdec_slm import EncDecSLMVisionConfig, EncDecSLMVisionForConditionalGeneration, EncDecSLMVisionModel


# which class has labels, and which is bare, is read from these tables by name
MODEL_MAPPING_NAMES["encdec_slm_vision"] = "EncDecSLMVisionModel"
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["encdec_slm_vision"] = "EncDecSLMVisionForConditionalGeneration"


class PeerVisionTester(VisionTester):
    """What the common tests ask of a model's tester: every row is an image of one view, and words."""

    batch_size = 7  # fewer rows would be filled up with random ones, which have no images
    image_length = 16
    # labels are as long as the input
    seq_length = encoder_seq_length = decoder_seq_length = image_length + 7
    is_training = True
    vision_config: ClassVar = {"num_hidden_layers": 2}
    num_hidden_layers = 2
    hidden_size = VisionTester.stack["hidden_size"]
    num_attention_heads = VisionTester.stack["num_attention_heads"]

    def __init__(self):
        super().__init__(
            both={"num_hidden_layers": self.num_hidden_layers},
            encoder={"image_grid_pinpoints": []},
            tower=self.vision_config,
            initializer_range=0.02,
        )

    def get_config(self, **changes):
        return self.config(**changes)

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {"pixel_values": floats_tensor([self.batch_size, 3, 8, 8])}
        for name in ("", "decoder_"):
            inputs[f"{name}input_ids"] = ids_tensor(shape, VOCAB_SIZE).clamp(FIRST_WORD)
            inputs[f"{name}attention_mask"] = torch.ones(shape, dtype=torch.long)
        inputs["input_ids"][:, : self.image_length] = IMAGE_TOKEN_ID
        return self.get_config(), inputs


class EncDecSLMVisionPeerTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (EncDecSLMVisionModel, EncDecSLMVisionForConditionalGeneration)
    is_encoder_decoder = True
    _is_composite = True
    additional_model_inputs: ClassVar = ["pixel_values"]
    # the tower has layers behind the one whose states are read, and an image of one view takes no newline
    test_all_params_have_gradient = False

    def setUp(self):
        self.model_tester = PeerVisionTester()
        self.config_tester = ConfigTester(self, EncDecSLMVisionConfig, common_properties=["use_cache"])

    # they read random ids, the token of images among them, and bring no images; the text model passes them
    test_model_rope_scaling_from_config_0_linear = None
    test_model_rope_scaling_from_config_1_dynamic = None
    test_model_rope_scaling_from_config_2_yarn = None

    def test_config(self):
        self.config_tester.run_common_tests()
