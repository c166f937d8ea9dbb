"""The common model and configuration tests of Transformers, on our classes."""

import unittest

import torch
from model_tester import FIRST_WORD, VOCAB_SIZE, ModelTester
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor

from encdec_slm import EncDecSLMConfig, EncDecSLMEncoder, EncDecSLMForConditionalGeneration, EncDecSLMModel


# which class has labels, and which is bare, is read from these tables by name; registration does not enter it there
MODEL_MAPPING_NAMES["encdec_slm"] = "EncDecSLMModel"
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["encdec_slm"] = "EncDecSLMForConditionalGeneration"


class PeerTester(ModelTester):
    """What the common tests ask of a model's tester. They take both halves to be equally deep."""

    batch_size = 13
    seq_length = encoder_seq_length = decoder_seq_length = 7
    is_training = True
    num_hidden_layers = 2
    hidden_size = ModelTester.stack["hidden_size"]
    num_attention_heads = ModelTester.stack["num_attention_heads"]

    def __init__(self):
        super().__init__(both={"num_hidden_layers": self.num_hidden_layers}, initializer_range=0.02)

    def get_config(self, **changes):
        return self.config(**changes)

    def get_large_model_config(self):
        return EncDecSLMConfig.from_preset("330m")

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {}
        for name in ("", "decoder_"):
            inputs[f"{name}input_ids"] = ids_tensor(shape, VOCAB_SIZE).clamp(FIRST_WORD)
            inputs[f"{name}attention_mask"] = torch.ones(shape, dtype=torch.long)
        return self.get_config(), inputs


class PeerEncoderTester(PeerTester):
    is_training = False  # it has no loss

    def get_config(self):
        # what the common tests choose the names of outputs by
        return super().get_config(is_encoder_decoder=False)

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, {name: value for name, value in inputs.items() if not name.startswith("decoder_")}


class EncDecSLMPeerTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (EncDecSLMModel, EncDecSLMForConditionalGeneration)
    is_encoder_decoder = True

    def setUp(self):
        self.model_tester = PeerTester()
        self.config_tester = ConfigTester(self, EncDecSLMConfig, common_properties=["use_cache"])

    def test_config(self):
        self.config_tester.run_common_tests()


class EncDecSLMEncoderPeerTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (EncDecSLMEncoder,)
    is_encoder_decoder = False

    def setUp(self):
        self.model_tester = PeerEncoderTester()
