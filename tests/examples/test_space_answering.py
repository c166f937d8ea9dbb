"""What the page of the Space shows: the answers of `generate`, from one model at a time, and honest clocks."""

import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import count
from threading import Event

import numpy as np
import pytest
import torch
from answering import TokenStream, Turns
from image_text_tester import TEMPLATE, save_decoder_only, save_encoder_decoder
from model_tester import ModelTester
from PIL import Image
from respondents import MOST_CHARACTERS, Question, load_image_text_model, load_text_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from encdec_slm.distillation.rows import RowEncoder


NEW_TOKENS = 12
QUESTION = Question("what is this")
CHAT_TEMPLATE = "{% for message in messages %}<s>{{ message.content }}{% endfor %}!"


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("encoder_decoder")
    # it never ends an answer itself
    ModelTester().model(eos_token_id=None).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return load_text_model(str(folder), max_new_tokens=NEW_TOKENS)


@pytest.fixture(scope="module")
def decoder_only(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("decoder_only")
    # sure enough of itself to say different things, and never at an end
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, initializer_range=0.5, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    set_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return load_text_model(str(folder), template="{source}<s>", max_new_tokens=NEW_TOKENS)


@pytest.fixture(scope="module")
def image_models(tmp_path_factory, tiny_tokenizer):
    """An encoder-decoder with a template, and a decoder-only model with a chat template."""
    folder = tmp_path_factory.mktemp("image_text")
    save_encoder_decoder(folder / "encoder_decoder", tiny_tokenizer)
    save_decoder_only(folder / "decoder_only", tiny_tokenizer)
    return {
        name: load_image_text_model(str(folder / name), template=template, max_new_tokens=NEW_TOKENS)
        for name, template in (("encoder_decoder", TEMPLATE), ("decoder_only", None))
    }


@pytest.fixture
def turns():
    return Turns(pause_seconds=0.001)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def last(frames):
    *_, final = frames
    return final


def without_a_stream(respondent, question):
    """The answer that `generate` and the tokenizer give."""
    inputs = respondent.inputs(question)
    ids = respondent.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    read = 0 if respondent.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    # the decoder's start is a special token
    return respondent.tokenizer.decode(ids[0, read:], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["encoder_decoder", "decoder_only"])
def test_the_streamed_answer_is_that_of_generate(name, request, turns):
    respondent = request.getfixturevalue(name)
    frames = list(turns.answer(respondent, respondent.inputs(QUESTION)))
    assert frames[-1].text == without_a_stream(respondent, QUESTION) != ""
    assert [frame.is_complete for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert all(frames[-1].text.startswith(frame.text) for frame in frames)


@pytest.mark.parametrize("name", ["encoder_decoder", "decoder_only"])
def test_models_that_read_images_answer_alike(name, image_models, turns):
    respondent = image_models[name]
    question = Question("what is this", picture(0))
    assert last(turns.answer(respondent, respondent.inputs(question))).text == without_a_stream(respondent, question)


@pytest.mark.parametrize("name", ["encoder_decoder", "decoder_only"])
def test_the_image_is_read(name, image_models, turns):
    respondent = image_models[name]
    answers = {
        last(turns.answer(respondent, respondent.inputs(Question("what is this", picture(seed))))).text
        for seed in range(4)
    }
    assert len(answers) > 1


def test_an_answer_grows_before_the_reader(encoder_decoder):
    def slow_clock():
        time.sleep(0.01)
        return time.perf_counter()

    turns = Turns(slow_clock, pause_seconds=0.001)
    lengths = [frame.tokens for frame in turns.answer(encoder_decoder, encoder_decoder.inputs(QUESTION))]
    assert lengths[-1] == NEW_TOKENS
    assert len(set(lengths)) > NEW_TOKENS // 2
    assert lengths == sorted(lengths)


def test_clocks_are_read_at_the_call_of_generate_and_at_each_token(encoder_decoder):
    # the call at 0, the start of the decoder at 1, tokens at 4, 9, 16...
    turns = Turns((number**2 for number in count()).__next__, pause_seconds=0.001)
    frames = list(turns.answer(encoder_decoder, encoder_decoder.inputs(QUESTION)))
    assert frames[-1].tokens == NEW_TOKENS
    for frame in frames:
        begun, later = frame.tokens > 0, frame.tokens > 1
        assert frame.first_token_seconds == (4 if begun else None)
        seconds = (frame.tokens + 1) ** 2 - 4
        assert frame.tokens_per_second == (pytest.approx((frame.tokens - 1) / seconds) if later else None)


def test_a_character_of_several_tokens_is_shown_when_it_is_whole():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_bytes = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_bytes.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=by_bytes)
    stream = TokenStream(tokenizer, count().__next__)
    stream.start()
    stream.put(torch.tensor([[0]]))
    shown = []
    for token in tokenizer("a\u00e9")["input_ids"]:
        stream.put(torch.tensor([token]))
        shown.append(stream.answer(is_complete=False).text)
    assert shown == ["a", "a", "a\u00e9"]


def test_models_answer_one_after_the_other(encoder_decoder, decoder_only, turns):
    frames = list(turns.side_by_side([encoder_decoder, decoder_only], QUESTION))
    assert all(second is None or first.is_complete for first, second in frames)
    assert all(answer.is_complete for answer in frames[-1])
    assert [answer.text for answer in frames[-1]] == [
        without_a_stream(respondent, QUESTION) for respondent in (encoder_decoder, decoder_only)
    ]


def test_two_visitors_never_make_two_models_write_at_once(encoder_decoder, decoder_only, turns, monkeypatch):
    log = []
    for respondent in (encoder_decoder, decoder_only):

        def spy(*args, original=respondent.model.generate, **kwargs):
            log.append("begins")
            original(*args, **kwargs)
            log.append("ends")

        monkeypatch.setattr(respondent.model, "generate", spy)
    with ThreadPoolExecutor(3) as visitors:
        asked = [
            visitors.submit(lambda: list(turns.side_by_side([encoder_decoder, decoder_only], QUESTION)))
            for _ in range(3)
        ]
        for visitor in asked:
            visitor.result()
    assert log == ["begins", "ends"] * 6


@pytest.mark.parametrize("is_late", [False, True], ids=["waits", "comes late"])
def test_who_leaves_ends_the_generation(is_late, encoder_decoder, turns, monkeypatch):
    go_on, first_token, ended = Event(), Event(), []
    original = encoder_decoder.model.generate
    submit = turns._executor.submit

    def spy(**options):
        try:
            original(**options)
        except CancelledError:
            ended.append("early")
            raise

    def clock():
        # the first token comes, the second not before the reader has left, however long the machine stands still;
        # the timeout is for a reader that is shown nothing
        if len(readings) == 3:
            first_token.set()
            go_on.wait(timeout=600)
        readings.append(time.perf_counter())
        return readings[-1]

    def submit_and_dawdle(*arguments):
        future = submit(*arguments)
        assert first_token.wait(timeout=600)
        return future

    readings = []
    turns.clock = clock
    if is_late:
        # the first token is there before the reader looks for it
        monkeypatch.setattr(turns._executor, "submit", submit_and_dawdle)
    monkeypatch.setattr(encoder_decoder.model, "generate", spy)
    answer = turns.answer(encoder_decoder, encoder_decoder.inputs(QUESTION))
    try:
        assert next(answer).tokens == 1
        answer.close()
    finally:
        go_on.set()
    # the next one is answered as if nothing had been
    assert last(turns.answer(encoder_decoder, encoder_decoder.inputs(QUESTION))).tokens == NEW_TOKENS
    assert ended == ["early"]


def test_an_error_of_generate_reaches_the_reader_and_nobody_else(encoder_decoder, turns, monkeypatch):
    def broken(**_):
        raise RuntimeError("no memory left")

    inputs = encoder_decoder.inputs(QUESTION)
    with monkeypatch.context() as patch:
        patch.setattr(encoder_decoder.model, "generate", broken)
        with pytest.raises(RuntimeError, match="no memory left"):
            list(turns.answer(encoder_decoder, inputs))
    assert last(turns.answer(encoder_decoder, encoder_decoder.inputs(QUESTION))).is_complete


def test_nobody_answers_a_question_that_one_of_them_refuses(encoder_decoder, decoder_only, turns, monkeypatch):
    called = []
    monkeypatch.setattr(decoder_only.model, "generate", lambda **_: called.append(1))
    # the positions of the decoder-only model are 2048, of the encoder 64
    with pytest.raises(ValueError, match=r"has 66 tokens, but .*encoder_decoder.* reads at most 64: shorten it"):
        list(turns.side_by_side([decoder_only, encoder_decoder], Question("a" * 66)))
    assert not called


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "there is no text"),
        ("a" * (MOST_CHARACTERS + 1), "20,001 characters, but this page takes at most 20,000"),
    ],
)
def test_a_text_is_neither_empty_nor_endless(encoder_decoder, text, message):
    with pytest.raises(ValueError, match=message):
        encoder_decoder.inputs(Question(text))


def test_an_answer_of_a_decoder_only_model_needs_positions_too(source):
    respondent = load_text_model(str(source), template="{source}", max_new_tokens=2_000)
    assert respondent.inputs(Question("a" * 48))["input_ids"].shape == (1, 48)
    with pytest.raises(ValueError, match=r"has 49 tokens, but .* at most 48"):
        respondent.inputs(Question("a" * 49))
    with pytest.raises(ValueError, match="no position left for an input beside an answer of 2048 tokens"):
        load_text_model(str(source), max_new_tokens=2_048)


def test_an_image_model_needs_an_image(image_models):
    with pytest.raises(ValueError, match="there is no image"):
        image_models["encoder_decoder"].inputs(QUESTION)


@pytest.mark.parametrize("load", [load_text_model, load_image_text_model])
def test_a_template_has_a_place_for_the_text(load, encoder_decoder, image_models):
    name = (encoder_decoder if load is load_text_model else image_models["encoder_decoder"]).name
    with pytest.raises(ValueError, match=r"the template 'spell it' has no \{source\}"):
        load(name, template="spell it", max_new_tokens=NEW_TOKENS)


@pytest.mark.parametrize(
    ("template", "chat_template"), [("say {source}!", CHAT_TEMPLATE), (None, CHAT_TEMPLATE), (None, None)]
)
def test_a_decoder_only_model_reads_what_a_teacher_reads(template, chat_template, source, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = chat_template
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    respondent = load_text_model(str(tmp_path), template=template, max_new_tokens=NEW_TOKENS)
    encoder = RowEncoder(tokenizer=tokenizer, teacher_tokenizer=tokenizer, teacher_template=template)
    row = encoder.encode({"source": QUESTION.text, "target": "a"})
    assert respondent.inputs(QUESTION)["input_ids"].tolist() == [row["teacher_prompt_ids"]]


def test_an_encoder_reads_what_a_student_reads(encoder_decoder, tiny_tokenizer):
    respondent = load_text_model(encoder_decoder.name, template="say {source}!", max_new_tokens=NEW_TOKENS)
    encoder = RowEncoder(tokenizer=tiny_tokenizer, teacher_tokenizer=tiny_tokenizer, source_template="say {source}!")
    row = encoder.encode({"source": QUESTION.text, "target": "a"})
    assert respondent.inputs(QUESTION)["input_ids"].tolist() == [row["input_ids"]]


def test_a_pickle_is_not_loaded(encoder_decoder, tmp_path):
    encoder_decoder.model.config.save_pretrained(tmp_path)
    encoder_decoder.tokenizer.save_pretrained(tmp_path)
    torch.save(encoder_decoder.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_text_model(str(tmp_path), max_new_tokens=NEW_TOKENS)
