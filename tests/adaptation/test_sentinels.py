"""Sentinels are found in T5's order, and added only where they or their embeddings are missing."""

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Tokenizer

from encdec_slm.adaptation import add_sentinels, sentinel_ids


def test_t5_counts_its_sentinels_downwards():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), ("a", -2.0)]
    reversed_ids = [*pieces, *((f"<extra_id_{i}>", 0.0) for i in (3, 2, 1, 0))]
    tokenizer = T5Tokenizer(vocab=reversed_ids, extra_ids=4)
    assert sentinel_ids(tokenizer) == [8, 7, 6, 5]
    assert sentinel_ids(tokenizer, 2) == [8, 7]
    with pytest.raises(ValueError, match="5 sentinels are needed, but the tokenizer has 4"):
        sentinel_ids(tokenizer, 5)


@pytest.mark.parametrize("family", ["t5", "bart", "ours"])
def test_new_sentinels_get_tokens_and_rows(build_tokenizer, build_model, family, tmp_path):
    tokenizer, model = build_tokenizer(sentinels=3), build_model(family, vocab_size=63)
    before = model.get_input_embeddings().weight.clone()
    ids = add_sentinels(tokenizer, model, 10)
    assert ids == list(range(60, 70))
    assert tokenizer.convert_ids_to_tokens(ids) == [f"<extra_id_{i}>" for i in range(10)]
    assert set(ids) <= set(tokenizer.all_special_ids)
    assert tokenizer.decode([4, ids[9], 5], skip_special_tokens=True) == "a b"
    assert model.config.vocab_size == 70
    assert torch.equal(model.get_input_embeddings().weight[:63], before)
    labels = torch.tensor([ids])
    assert model(input_ids=labels, labels=labels).logits.shape == (1, 10, 70)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path).get_input_embeddings().weight.shape[0] == 70
    assert sentinel_ids(AutoTokenizer.from_pretrained(tmp_path)) == ids


def test_nothing_grows_that_is_large_enough(build_tokenizer, build_model):
    tokenizer, model = build_tokenizer(sentinels=0), build_model("t5", vocab_size=80)
    embeddings = model.get_input_embeddings()
    ids = add_sentinels(tokenizer, model, 10)
    size = len(tokenizer)
    assert add_sentinels(tokenizer, model, 10) == ids
    assert add_sentinels(tokenizer, model, 4) == ids[:4]
    assert len(tokenizer) == size
    assert model.get_input_embeddings() is embeddings
    assert model.config.vocab_size == 80


def test_other_specials_stay_special(build_tokenizer, build_model):
    tokenizer, model = build_tokenizer(sentinels=0), build_model("ours", vocab_size=60)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<mine>"]})
    add_sentinels(tokenizer, model, 2)
    assert {"<mine>", "<extra_id_0>", "<extra_id_1>"} <= set(tokenizer.all_special_tokens)


def test_a_tokenizer_without_sentinels_has_none(build_tokenizer):
    assert sentinel_ids(build_tokenizer(sentinels=0)) == []
