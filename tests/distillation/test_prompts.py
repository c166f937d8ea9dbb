"""A prompt is framed once and left open; the end of an answer is what the chat template or the tokenizer says."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from encdec_slm.distillation.prompts import chat_prompt, end_exchange, end_of_answer, text_prompt


WORDS = ["<unk>", "<s>", "</s>", "<|start|>", "<|end|>", "<|user|>", "<|assistant|>", "hello", "there", "you"]
IDS = {word: i for i, word in enumerate(WORDS)}
CHATML = (
    "{% for message in messages %}<|start|> {{ message['role'] }} {{ message['content'] }} <|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|> <|assistant|>{% endif %}"
)
# ends the turn, and then everything
PHI = CHATML.replace("{% if", "{% if not add_generation_prompt %}</s>{% endif %}{% if")
# writes what the tokenizer adds to other texts
LLAMA = "<s>{% for message in messages %}{{ message['content'] }}{{ ' </s>' if loop.index0 % 2 else ' ' }}{% endfor %}"
PICKY = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message first') }}{% endif %}" + CHATML


def build(chat_template=None, frame=None, special=WORDS[1:7], **roles):
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if frame:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | roles
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=chat_template, extra_special_tokens=list(special), **roles
    )


def ids(text):
    return [IDS.get(word, 0) for word in text.split()]


@pytest.mark.parametrize(
    ("frame", "text", "prompt"),
    [
        (None, "hello there", "hello there"),
        ("<s> $A", "hello there", "<s> hello there"),
        # the answer goes on where the prompt stops
        ("<s> $A </s>", "hello there", "<s> hello there"),
        ("$A </s>", "hello", "hello"),
        # a prompt that brings its own frame: once in front, and its own end stays
        ("<s> $A </s>", "<s> hello </s>", "<s> hello </s>"),
        (None, "<s> hello", "<s> hello"),
    ],
)
def test_a_text_is_framed_in_front_alone_and_once(frame, text, prompt):
    assert text_prompt(build(frame=frame), text) == ids(prompt)


def test_a_prompt_has_something_to_read():
    with pytest.raises(ValueError, match="prompt has no tokens"):
        text_prompt(build(), " \n")
    for frame in ("<s> $A", "$A </s>", "<s> $A </s>"):
        with pytest.raises(ValueError, match="prompt has no tokens"):
            text_prompt(build(frame=frame), "")


@pytest.mark.parametrize("frame", [None, "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("content", ["hello", "<s> hello"])
def test_a_conversation_begins_once_and_ends_open(frame, content):
    assert chat_prompt(build(LLAMA, frame), [{"role": "user", "content": content}]) == ids("<s> hello")


def test_a_conversation_asks_for_an_answer():
    messages = [{"role": "<|user|>", "content": "hello there"}]
    prompt = chat_prompt(build(CHATML), messages)
    assert prompt == ids("<|start|> <|user|> hello there <|end|> <|start|> <|assistant|>")
    # a start of every turn is none of the whole
    assert chat_prompt(build(CHATML, bos_token="<|start|>"), messages) == prompt


def test_a_conversation_that_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match=r"cannot show messages of the roles \['user'\]: a system message first"):
        chat_prompt(build(PICKY), [{"role": "user", "content": "hello"}])
    with pytest.raises(ValueError, match=r"no chat template: set its chat_template, or .* teacher_prompt"):
        chat_prompt(build(), [{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(
    ("template", "stops", "end"),
    [
        (None, None, "</s>"),
        (None, [4], "</s>"),
        (CHATML, None, "<|end|>"),
        # of what stands behind an answer, where generation stops
        (PHI, None, "<|end|>"),
        (PHI, [IDS["</s>"]], "</s>"),
        (PHI, IDS["</s>"], "</s>"),
        (PHI, [IDS["</s>"], IDS["<|end|>"]], "<|end|>"),
        # generation that stops elsewhere says nothing about turns
        (CHATML, [IDS["</s>"]], "<|end|>"),
        (LLAMA, None, "</s>"),
        # no end is shown
        ("{% for message in messages %}{{ message['content'] }}\n{% endfor %}", None, "</s>"),
        ("{{ messages[0]['content'] }} <|end|>", None, "</s>"),
        (PICKY, None, "</s>"),
    ],
)
def test_an_answer_ends_as_the_chat_template_shows_or_else_as_the_tokenizer_says(template, stops, end):
    assert end_of_answer(build(template), stops)[0] == IDS[end]


def test_a_line_break_that_is_an_unknown_word_ends_nothing():
    tokenizer = build("{{ messages[1]['content'] }} what <|end|>")
    assert end_of_answer(tokenizer)[0] == IDS["<|end|>"]
    # ... but what stands for unknown words may be the end, as in GPT-2
    gpt2 = build("{{ messages[1]['content'] }} <unk>", eos_token="<unk>", special=())
    assert end_of_answer(gpt2)[0] == 0


def test_ends_are_exchanged_where_they_differ(caplog, monkeypatch):
    monkeypatch.setattr(logging.logging.getLogger("encdec_slm"), "propagate", True)
    student = build()
    with caplog.at_level("INFO", logger="encdec_slm"):
        assert end_exchange(student, build(CHATML)) == (IDS["</s>"], IDS["<|end|>"])
        assert end_exchange(student, build(PHI), teacher_eos_token_ids=[2]) is None
        assert end_exchange(student, build()) is None
        assert end_exchange(build(eos_token="<|end|>"), build(CHATML)) is None
    said = [record.getMessage() for record in caplog.records]
    assert "'<|end|>' (4), as its chat template tells, but the student by '</s>' (2)" in said[0]
    assert "'</s>' (2), as its tokenizer tells, and so does the student" in said[2]


def test_answers_without_an_end_are_refused():
    with pytest.raises(ValueError, match=r"no token ends the teacher's answers.* Set tokenizer\.eos_token"):
        end_of_answer(build(eos_token=None))
    with pytest.raises(ValueError, match="the student's tokenizer has no eos_token"):
        end_exchange(build(eos_token=None), build())
