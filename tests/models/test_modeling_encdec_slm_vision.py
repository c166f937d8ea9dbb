"""The vision model: the laws of every encoder-decoder, for rows that each have an image."""

import pytest
import torch
from checkpoint_laws import CheckpointLaws
from forward_laws import ForwardLaws
from training_laws import LoraLaws, TrainingLaws, gradients
from vision_tester import IMAGE_TOKEN_ID, VisionTester


@pytest.fixture
def tester():
    return VisionTester()


class TestForward(ForwardLaws):
    def test_hidden_states_lead_from_the_embedding_to_the_logits(self, model, inputs, decoder_input_ids):
        states = model(**inputs, decoder_input_ids=decoder_input_ids, output_hidden_states=True).encoder_hidden_states
        is_image = inputs["input_ids"] == IMAGE_TOKEN_ID
        features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
        assert torch.equal(states[0][is_image], torch.cat(features))
        assert torch.equal(states[0][~is_image], model.get_encoder().embed_tokens(inputs["input_ids"][~is_image]))
        words = {name: inputs[name][:, :5] for name in ("input_ids", "attention_mask")}
        super().test_hidden_states_lead_from_the_embedding_to_the_logits(model, words, decoder_input_ids)


class TestCheckpoint(CheckpointLaws):
    # the encoder has no Auto class of its own: AutoModelForTextEncoding is for texts
    test_encoder_loads_from_the_full_checkpoint = None


class TestTraining(TrainingLaws):
    def test_every_weight_learns(self, model, batch):
        """All but the layers of the tower behind the one that is read."""
        model.train()
        learnt = gradients(model, batch)
        behind = ("vision_tower.encoder.layers.2.", "vision_tower.post_layernorm.")
        names = {name for name, _ in model.named_parameters() if not any(part in name for part in behind)}
        assert learnt.keys() == names
        # what adds the same to all keys of a softmax changes nothing
        weights = {name: gradient for name, gradient in learnt.items() if not name.endswith("k_proj.bias")}
        assert [
            name for name, gradient in weights.items() if not gradient.any() or not gradient.isfinite().all()
        ] == []


class TestLora(LoraLaws):
    @pytest.fixture
    def tester(self):
        # adapters of layers that are not read would learn nothing
        return VisionTester(encoder={"vision_feature_layer": -1})
