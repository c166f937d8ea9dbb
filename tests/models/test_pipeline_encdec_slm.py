"""`pipeline("text2text-generation")`: ours, T5 and BART, each answer as tokenizer and `generate` give it."""

import copy
from operator import itemgetter
from threading import Thread

import pytest
import torch
from datasets import Dataset
from model_tester import ModelTester
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Pipeline,
    T5Config,
    T5ForConditionalGeneration,
    TextIteratorStreamer,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from encdec_slm import Text2TextGenerationPipeline


TEXTS = ["abcd ef", "k", "xyz"]
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "vocab_size": 60}


def tiny_t5():
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, initializer_factor=5.0, **TOKENS)
    return T5ForConditionalGeneration(config)


def tiny_bart():
    sizes = {f"{half}_{name}": 2 for half in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    widths = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 300}
    return BartForConditionalGeneration(
        BartConfig(init_std=0.5, forced_eos_token_id=None, **sizes, **widths, **TOKENS)
    )


MODELS = {"ours": ModelTester().model, "t5": tiny_t5, "bart": tiny_bart}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    # random models repeat themselves: answers of varied characters
    model.generation_config.update(suppress_tokens=[0, 1, 3], no_repeat_ngram_size=2, min_new_tokens=3)
    return model


@pytest.fixture
def pipe(model, tiny_tokenizer):
    return pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")


@pytest.fixture
def ids_by_hand(model, tiny_tokenizer):
    """Returns the tokens that `generate` gives for one text."""

    def generate(text, **options):
        encoded = tiny_tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        return model.generate(**encoded, **{"max_new_tokens": 9, "do_sample": False, **options})

    return generate


@pytest.fixture
def by_hand(ids_by_hand, tiny_tokenizer):
    """Returns the texts that `generate` gives for one text."""

    def answer(text, **options):
        ids = ids_by_hand(text, **options)
        return tiny_tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return answer


def records(texts):
    return [{"generated_text": text} for text in texts]


def test_string_gives_a_list_of_one(pipe, by_hand):
    assert isinstance(pipe, Text2TextGenerationPipeline)
    answers = [pipe(text, max_new_tokens=9) for text in TEXTS]
    assert answers == [records(by_hand(text)) for text in TEXTS]
    assert len({answer[0]["generated_text"] for answer in answers}) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_list_gives_a_list(pipe, by_hand, batch_size):
    answers = pipe(TEXTS, max_new_tokens=9, batch_size=batch_size)
    assert answers == [records(by_hand(text))[0] for text in TEXTS]


def test_list_of_one_and_of_none(pipe, by_hand):
    assert pipe(TEXTS[:1], max_new_tokens=9) == records(by_hand(TEXTS[0]))
    assert pipe([]) == []


def test_generator_gives_what_a_dataset_does(pipe, by_hand):
    answers = pipe((text for text in TEXTS), max_new_tokens=9)
    assert list(answers) == [records(by_hand(text)) for text in TEXTS]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_column_of_a_dataset(pipe, by_hand, batch_size):
    data = Dataset.from_dict({"text": TEXTS})
    options = {"max_new_tokens": 9, "batch_size": batch_size}
    expected = [records(by_hand(text)) for text in TEXTS]
    # read as it goes
    assert list(pipe(KeyDataset(data, "text"), **options)) == expected
    # a sequence of strings, as a list is
    for texts in (data["text"], tuple(TEXTS)):
        assert pipe(texts, **options) == [answer for (answer,) in expected]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_several_sequences_of_each_input(pipe, by_hand, batch_size):
    options = {"num_beams": 3, "num_return_sequences": 2}
    expected = [records(by_hand(text, **options)) for text in TEXTS]
    assert pipe(TEXTS[0], max_new_tokens=9, **options) == expected[0]
    answers = pipe(TEXTS, max_new_tokens=9, batch_size=batch_size, **options)
    if batch_size > 1:
        # padded rows are rounded otherwise: beams of almost the same score may change places
        for beams in (*answers, *expected):
            beams.sort(key=itemgetter("generated_text"))
    assert answers == expected
    assert [len(answer) for answer in answers] == [2, 2, 2]


def test_length_is_asked_for(pipe):
    for length in (3, 5):
        (answer,) = pipe(TEXTS[0], max_new_tokens=length, eos_token_id=None, return_tensors=True)
        assert answer["generated_token_ids"].shape == (1 + length,)


def test_length_by_default(model, tiny_tokenizer):
    model.generation_config.eos_token_id = None
    pipe = pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")
    assert pipe(TEXTS[0], return_tensors=True)[0]["generated_token_ids"].shape == (1 + 256,)


@pytest.mark.skipif(
    not hasattr(Pipeline, "_prepare_generate_kwargs"), reason="before 5.17 the pipeline's default wins"
)
def test_length_that_the_model_states(model, tiny_tokenizer):
    model.generation_config.eos_token_id = None
    model.generation_config.max_new_tokens = 4
    pipe = pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")
    assert pipe(TEXTS[0], return_tensors=True)[0]["generated_token_ids"].shape == (1 + 4,)


def test_tokens_can_be_returned(pipe, ids_by_hand):
    expected = [ids_by_hand(text)[0].tolist() for text in TEXTS]
    for options in ({"return_tensors": True}, {"return_text": False}):
        answers = pipe(TEXTS, max_new_tokens=9, **options)
        assert [answer.keys() for answer in answers] == [{"generated_token_ids"}] * 3
        assert [answer["generated_token_ids"].tolist() for answer in answers] == expected
    assert pipe(TEXTS, max_new_tokens=9, return_text=True) == pipe(TEXTS, max_new_tokens=9)
    with pytest.raises(ValueError, match="exclude each other"):
        pipe(TEXTS[0], return_tensors=True, return_text=True)


def test_blanks_before_punctuation_are_removed_on_demand(pipe):
    # letters alone would say nothing: blanks and punctuation are left
    options = {"max_new_tokens": 30, "eos_token_id": None, "do_sample": True, "temperature": 9.0}
    options["no_repeat_ngram_size"] = 0
    options["suppress_tokens"] = [i for i in range(60) if i not in (4, 5, 6, 7, 8)]

    def answer(**more):
        torch.manual_seed(0)
        return pipe(TEXTS[0], **options, **more)[0]["generated_text"]

    plain = answer()
    assert answer(clean_up_tokenization_spaces=False) == plain
    cleaned = plain
    for mark in ".?!,":
        cleaned = cleaned.replace(f" {mark}", mark)
    assert answer(clean_up_tokenization_spaces=True) == cleaned != plain


def test_prefix_is_put_before_every_input(model, tiny_tokenizer, by_hand):
    pipe = pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")
    expected = [records(by_hand("yes " + text))[0] for text in TEXTS]
    plain = pipe(TEXTS, max_new_tokens=9)
    assert pipe(TEXTS, max_new_tokens=9, prefix="yes ") == expected != plain
    assert pipe(TEXTS, max_new_tokens=9) == plain
    model.config.prefix = "yes "
    configured = pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu")
    assert configured(TEXTS, max_new_tokens=9) == expected
    assert configured(TEXTS, max_new_tokens=9, prefix="") == plain


@pytest.mark.parametrize("where", ["call", "init"])
def test_stop_sequence_ends_the_answer(model, tiny_tokenizer, by_hand, where):
    characters = {"eos_token_id": None, "suppress_tokens": [0, 1, 2, 3]}
    (text,) = by_hand(TEXTS[0], **characters)
    # two characters that end before the answer does
    end = next(i for i in range(3, 8) if text.index(text[i - 2 : i]) == i - 2)
    for options in ({"stop_sequence": text[end - 2 : end]}, {"stop_strings": [text[end - 2 : end]]}):
        at = {"call": {}, "init": {}, where: options}
        pipe = pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer, device="cpu", **at["init"])
        (answer,) = pipe(TEXTS[0], max_new_tokens=9, **characters, **at["call"])
        assert answer["generated_text"] == text[:end]


def test_answer_is_streamed_from_a_thread(pipe, tiny_tokenizer, by_hand):
    streamer = TextIteratorStreamer(tiny_tokenizer, skip_special_tokens=True, timeout=30)
    thread = Thread(target=pipe, args=(TEXTS[0],), kwargs={"max_new_tokens": 9, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == by_hand(TEXTS[0])[0]
    # what has no blank after it yet may still change
    assert len(pieces) > 1


def test_generation_config_is_obeyed(pipe, by_hand):
    config = GenerationConfig(max_new_tokens=7, num_beams=3, num_return_sequences=2, **_generation_tokens(pipe))
    expected = [records(by_hand(text, max_new_tokens=7, num_beams=3, num_return_sequences=2)) for text in TEXTS]
    assert pipe(TEXTS, generation_config=config) == expected


def _generation_tokens(pipe):
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    return {name: getattr(pipe.model.generation_config, name) for name in names}


def test_assistant_changes_nothing(pipe, model, tiny_tokenizer):
    assistant, calls = copy.deepcopy(model), []
    assistant.register_forward_hook(lambda *_: calls.append(1))
    expected = pipe(TEXTS, max_new_tokens=9)
    assert pipe(TEXTS, max_new_tokens=9, assistant_model=assistant) == expected
    assert calls
    calls.clear()
    parts = {"model": model, "tokenizer": tiny_tokenizer, "device": "cpu"}
    assisted = pipeline("text2text-generation", **parts, assistant_model=assistant)
    assert assisted(TEXTS, max_new_tokens=9) == expected
    assert calls


def test_long_inputs_are_cut_on_demand(pipe, by_hand, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "model_max_length", 2)
    assert pipe("abcd", max_new_tokens=9, truncation=True) == records(by_hand("ab"))
    assert pipe("abcd", max_new_tokens=9) == records(by_hand("abcd"))


def test_types_of_tokens_are_not_passed_on(model, tiny_tokenizer, by_hand):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in tokenizer(TEXTS[0])
    pipe = pipeline("text2text-generation", model=model, tokenizer=tokenizer, device="cpu")
    assert pipe(TEXTS[0], max_new_tokens=9) == records(by_hand(TEXTS[0]))


def test_saved_pipeline_is_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = pipeline("text2text-generation", model=str(tmp_path), trust_remote_code=True)
    assert type(loaded.model).__name__ == type(pipe.model).__name__
    assert loaded(TEXTS, max_new_tokens=9) == pipe(TEXTS, max_new_tokens=9)


def test_saved_folder_of_ours_needs_no_trust_where_the_package_is(tiny_tokenizer, tmp_path):
    model = ModelTester().model()
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = pipeline("text2text-generation", model=str(tmp_path))
    assert type(loaded) is Text2TextGenerationPipeline
    made = Text2TextGenerationPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu")
    assert loaded(TEXTS, max_new_tokens=9) == made(TEXTS, max_new_tokens=9)


@pytest.mark.parametrize("inputs", [3, None, [1, 2], ["a", None], [["a"], ["b"]], {"text": "a"}, b"a"])
def test_other_than_strings_is_refused(pipe, inputs):
    with pytest.raises(ValueError, match="text2text-generation reads strings, got"):
        pipe(inputs)


def test_text_without_a_token_is_refused(tiny_tokenizer):
    # a tokenizer that adds no token of its own
    pipe = pipeline("text2text-generation", model=ModelTester().model(), tokenizer=tiny_tokenizer, device="cpu")
    with pytest.raises(ValueError, match="no token"):
        pipe("")


def test_decoder_only_models_are_refused(tiny_tokenizer):
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=60, bos_token_id=1, eos_token_id=2))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel is none.*text-generation"):
        pipeline("text2text-generation", model=model, tokenizer=tiny_tokenizer)
