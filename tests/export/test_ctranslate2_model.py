"""`generate` over CTranslate2 gives what `generate` of the library gives, or says that it cannot."""

import ctranslate2
import pytest
import torch
from model_tester import FIRST_WORD, ModelTester
from transformers import GenerationConfig, pipeline
from transformers.generation.streamers import BaseStreamer

from encdec_slm.export import load_exported
from encdec_slm.export.ctranslate2_export import export_ctranslate2
from encdec_slm.export.ctranslate2_model import CT2EncDecSLM


EQUAL = {
    "greedy": {"max_new_tokens": 12},
    "length in all": {"max_length": 7, "min_length": 6},
    "no end before": {"max_new_tokens": 12, "min_new_tokens": 5},
    "penalties": {"max_new_tokens": 12, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "two ends": {"max_new_tokens": 12, "eos_token_id": [2, 20], "min_new_tokens": 2},
    "beams": {"max_new_tokens": 12, "num_beams": 3, "early_stopping": True, "num_return_sequences": 2},
    "long beams": {"max_new_tokens": 12, "num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
}
REFUSED = {
    "early_stopping": {"num_beams": 2, "early_stopping": False},
    "top_h": {"do_sample": True, "top_h": 0.5},
    "num_beam_groups": {"num_beams": 4, "num_beam_groups": 2},
    "bad_words_ids": {"bad_words_ids": [[5]]},
    "return_dict_in_generate": {"return_dict_in_generate": True},
    "inputs_embeds": {"inputs_embeds": torch.zeros(1, 2, 32)},
    "num_return_sequences": {"num_return_sequences": 2},
    "searches or samples": {"num_beams": 2, "do_sample": True},
    "temperature": {"do_sample": True, "temperature": 0.0},
    "min_new_tokens": {"max_new_tokens": 2, "min_new_tokens": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctranslate2")
    answering_model().save_pretrained(folder / "model")
    export_ctranslate2(folder / "model", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def exported(folder):
    return CT2EncDecSLM.from_pretrained(folder, intra_threads=1)


@pytest.fixture(scope="module")
def model():
    return answering_model()


def answering_model():
    # answers that end, and not all at once
    return ModelTester(initializer_range=0.15).model()


def as_wide(tokens, width, pad=0):
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=pad)


@pytest.mark.parametrize("case", EQUAL)
@torch.no_grad()
def test_answers_are_those_of_the_library(case, model, exported):
    tester = ModelTester()
    inputs = tester.batch([tester.row(length) for length in (9, 5, 30, 7)], padding_side="left")
    wanted = model.generate(**inputs, do_sample=False, **EQUAL[case])
    assert torch.equal(exported.generate(**inputs, **EQUAL[case]), wanted)


@torch.no_grad()
def test_greedy_tokens_of_a_hundred_inputs_are_pytorchs(model, exported):
    inputs = ModelTester().inputs(tuple(3 + index % 29 for index in range(100)))
    tokens = exported.generate(**inputs, max_new_tokens=12)
    assert torch.equal(tokens, model.generate(**inputs, max_new_tokens=12, do_sample=False))
    assert len({tuple(row) for row in tokens.tolist()}) > 20
    assert (tokens == 2).any()


def test_a_batch_gives_what_its_rows_give(exported):
    tester = ModelTester()
    rows = [tester.row(length) for length in (9, 5, 17)]
    for side in ("left", "right"):
        batch = exported.generate(**tester.batch(rows, padding_side=side), max_new_tokens=8)
        for row, alone in zip(batch, rows, strict=True):
            answer = exported.generate(alone["input_ids"], max_new_tokens=8)
            assert torch.equal(as_wide(answer, len(row))[0], row)


@torch.no_grad()
def test_log_probabilities_are_pytorchs(model, exported):
    input_ids, labels = ModelTester().row(40)["input_ids"], torch.randint(FIRST_WORD, 60, (1, 10))
    logits = model(input_ids=input_ids, labels=labels).logits
    wanted = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(exported.log_probabilities(input_ids, labels), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{"top_k": 0, "temperature": 0.7}, {"top_k": 3, "temperature": 1.4}, {"top_k": 0, "top_p": 0.6}]
)
@torch.no_grad()
def test_samples_have_the_librarys_distribution(options, model, exported):
    row = ModelTester().row(6)
    ctranslate2.set_random_seed(0)
    count = 4000
    tokens = exported.generate(**row, do_sample=True, max_new_tokens=1, num_return_sequences=count, **options)[:, 1]
    found = torch.bincount(tokens, minlength=60) / count
    wanted = (
        model.generate(
            **row, do_sample=True, max_new_tokens=1, output_scores=True, return_dict_in_generate=True, **options
        )
        .scores[0][0]
        .softmax(-1)
    )
    # what the library never draws is never drawn, and the rest as often, within five standard deviations
    assert not found[wanted == 0].any()
    assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / count).sqrt() + 1e-6).all()


def test_streamer_is_given_the_answer(exported):
    class Streamer(BaseStreamer):
        tokens, ended = [], False

        def put(self, value):
            self.tokens += value.tolist()

        def end(self):
            self.ended = True

    row, streamer = ModelTester().row(6), Streamer()
    answer = exported.generate(**row, max_new_tokens=12, streamer=streamer)
    assert streamer.tokens == answer[0].tolist()
    assert streamer.ended
    with pytest.raises(ValueError, match="one answer"):
        exported.generate(**ModelTester().inputs(), streamer=streamer)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_does_not_do_is_refused_by_name(name, exported):
    with pytest.raises(ValueError, match=name):
        exported.generate(**ModelTester().row(4), **REFUSED[name])


def test_configurations_give_way_to_arguments(exported):
    row = ModelTester().row(4)
    config = GenerationConfig(max_new_tokens=3, min_new_tokens=3)
    assert exported.generate(**row, generation_config=config).shape == (1, 4)
    assert exported.generate(**row, generation_config=config, max_new_tokens=5, min_new_tokens=5).shape == (1, 6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input_ids"),
        ({"input_ids": torch.ones(3, dtype=torch.long)}, "shape"),
        ({"input_ids": torch.tensor([[99]])}, "vocabulary 60"),
        ({"input_ids": torch.tensor([[9, 9]]), "attention_mask": torch.zeros(1, 2)}, "no token"),
        ({"input_ids": torch.tensor([[9, 9, 9]]), "attention_mask": torch.tensor([[1, 0, 1]])}, "ends only"),
        ({"input_ids": torch.tensor([[9, 9]]), "attention_mask": torch.ones(1, 3)}, "must be equal"),
    ],
)
def test_bad_inputs_are_refused(inputs, message, exported):
    with pytest.raises(ValueError, match=message):
        exported.generate(**inputs)


@torch.no_grad()
def test_pipeline_takes_the_exported_model(model, exported, tiny_tokenizer):
    texts = ["abc", "hello", "tree"]
    ours = pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")
    theirs = pipeline("text2text-generation", model=exported, tokenizer=tiny_tokenizer, device="cpu")
    for options in ({}, {"batch_size": 2}):
        wanted = ours(texts, max_new_tokens=8, do_sample=False, **options)
        assert theirs(texts, max_new_tokens=8, do_sample=False, **options) == wanted
    with pytest.raises(ValueError, match="device='cpu'"):
        exported.to("meta")


def test_what_benchmarks_and_evaluations_ask(exported, model):
    assert exported.eval().num_parameters() == model.num_parameters()
    assert exported.config.get_text_config(decoder=True).vocab_size == 60
    assert exported.config.is_encoder_decoder


def test_half_an_export_and_an_engine_that_cannot_are_refused(folder, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"\x63\x00\x00\x00")
    with pytest.raises(ValueError, match=r"config\.json, generation_config\.json"):
        load_exported(tmp_path)
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="cannot load"):
        load_exported(tmp_path)
    with pytest.raises(ValueError, match="cannot load"):
        load_exported(folder, compute_type="float16")
    with pytest.raises(ValueError, match="cannot load"):
        load_exported(folder, device="tpu")
