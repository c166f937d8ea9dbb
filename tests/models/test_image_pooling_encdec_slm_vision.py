"""Averaging the encoder's states of an image before the decoder reads them."""

import pytest
import torch
from generation_laws import GREEDY, generate
from transformers.modeling_outputs import BaseModelOutput
from vision_variants import VISION_VARIANTS

from encdec_slm.models.modeling_encdec_slm_vision_layers import pool_image_states


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_pooling_by_hand():
    states = torch.arange(16.0).view(2, 8, 1)
    is_image = torch.tensor([[0, 1, 1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0, 0, 0]]).bool()
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]])
    pooled, pooled_mask = pool_image_states(states, is_image, mask, 2)
    assert pooled_mask.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert pooled[..., 0].tolist() == [[1.5, 3, 4, 5, 6, 7], [8.5, 10.5, 12, 13, 0, 0]]


def test_decoder_reads_fewer_states_where_they_are_pooled():
    tester = VISION_VARIANTS["pooling"]
    model = tester.model()
    inputs = tester.batch([tester.row_with_images(4, (8, 8)), tester.words(3)])
    outputs = generate(model, inputs, **GREEDY, return_dict_in_generate=True)
    # four words and a third of twenty tokens
    assert model.get_encoder()(**inputs).attention_mask.sum(1).tolist() == [4 + 7, 3]
    assert outputs.past_key_values.cross_attention_cache.layers[0].keys.shape[2] == 11
    expected = generate(model, inputs, **GREEDY)
    for options in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(generate(model, inputs, **GREEDY, **options), expected)
    given = {"encoder_outputs": model.get_encoder()(**inputs), "attention_mask": inputs["attention_mask"]}
    assert torch.equal(generate(model, given, **GREEDY), expected)
    beams = generate(model, inputs, num_beams=3)
    assert torch.equal(generate(model, inputs, num_beams=3, use_cache=False), beams)


def test_pooling_of_one_is_none():
    tester = VISION_VARIANTS["pooling"]
    model, row, decoder_input_ids = tester.model(), tester.row(3), tester.targets(1)
    pooled = model(**row, decoder_input_ids=decoder_input_ids).logits
    model.config.encoder.image_state_pooling = 1
    plain = VISION_VARIANTS["clip"].model()
    plain.load_state_dict(model.state_dict())
    expected = plain(**row, decoder_input_ids=decoder_input_ids).logits
    assert torch.equal(model(**row, decoder_input_ids=decoder_input_ids).logits, expected)
    assert (pooled - expected).abs().max() > 1e-3


def test_states_without_their_mask_are_refused():
    tester = VISION_VARIANTS["pooling"]
    model, row = tester.model(), tester.row(3)
    states = BaseModelOutput(model.get_encoder()(**row).last_hidden_state)
    with pytest.raises(ValueError, match=r"attention_mask is for \d+ tokens, but there are \d+ encoder states"):
        model(encoder_outputs=states, attention_mask=row["attention_mask"], decoder_input_ids=tester.targets(1))
