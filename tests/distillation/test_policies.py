"""A sample is drawn from the model's distribution, by its row and the weights alone, and the model stays as it was."""

import copy
import math
import random

import pytest
import torch
from sampling_tester import (
    END,
    LENGTH,
    PAD,
    SIGNIFICANCE,
    VOCAB,
    answer,
    as_lists,
    bart,
    draw,
    gpt2,
    llama,
    ours,
    p_value,
    padded,
    random_weights,
    sources,
    t5,
)
from transformers import GenerationConfig, set_seed

from encdec_slm.distillation.policies import (
    Sampling,
    choose_rows,
    row_seeds,
    sample_student,
    sample_teacher,
)


@pytest.fixture(params=[t5, bart, ours])
def student(request):
    return random_weights(request.param)


@pytest.fixture(params=[gpt2, llama])
def teacher(request):
    return random_weights(request.param).eval()


def log_probs_of_next(model, source, targets, sampling):
    """Returns the probabilities of the token after each target, which begins with the decoder's start token."""
    with torch.no_grad():
        source = source.expand(len(targets), -1)
        logits = model(input_ids=source, decoder_input_ids=targets, use_cache=False).logits[:, -1]
    logits = logits / sampling.temperature
    return logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -math.inf).softmax(-1)


def test_samples_follow_the_distribution_of_the_student(student):
    sampling, count = Sampling(max_new_tokens=2, temperature=1.4, top_k=6), 3000
    source = sources(5)[0].unsqueeze(0)
    labels = sample_student(
        student, source.expand(count, -1), torch.ones(count, 5), sampling, list(range(count)), [END]
    )
    student.eval()
    start = torch.tensor([[student.config.decoder_start_token_id]])
    first = log_probs_of_next(student, source, start, sampling)[0]
    two = torch.stack([start.expand(VOCAB, 1).flatten(), torch.arange(VOCAB)], dim=1)
    joint = first.unsqueeze(1) * log_probs_of_next(student, source, two, sampling)
    # a target that has ended has no second token
    joint[END] = torch.zeros(VOCAB).index_fill(0, torch.tensor([PAD]), first[END].item())
    assert 0.02 < first[END] < 0.98
    counts = (labels[:, 0] * VOCAB + labels[:, 1].clamp(min=PAD)).bincount(minlength=VOCAB**2)
    assert p_value(counts, joint.flatten()) > SIGNIFICANCE


def test_samples_are_those_of_the_row_alone(student):
    rows = sources(3, 7, 5, 6)
    together = draw(student, rows)
    # else it would say little
    assert len({tuple(row) for row in together}) == 4
    assert draw(student, rows[:2]) + draw(student, rows[2:]) == together
    assert [draw(student, [row])[0] for row in rows] == together
    assert draw(student, rows[::-1], width=11) == together[::-1]


def test_answers_of_the_teacher_are_those_of_the_row_alone(teacher):
    rows = sources(3, 7, 5, 6)
    together = answer(teacher, rows)
    assert len({tuple(row) for row in together}) == 4
    assert answer(teacher, rows[:2]) + answer(teacher, rows[2:]) == together
    assert [answer(teacher, [row])[0] for row in rows] == together
    assert answer(teacher, rows[::-1], width=11) == together[::-1]


def test_steps_seeds_and_sources_have_samples_of_their_own(student):
    row = sources(6)[0]
    drawn = {
        (step, seed): tuple(draw(student, [row], step=step, seed=seed)[0]) for step in range(4) for seed in range(4)
    }
    assert len(set(drawn.values())) > 12
    assert draw(student, [row], step=3, seed=2)[0] == list(drawn[3, 2])


def test_no_global_random_state_is_read_or_written(student):
    rows = sources(4, 6)
    drawn = draw(student, rows)
    input_ids, mask = padded(rows)
    arguments = (input_ids, mask, Sampling(max_new_tokens=LENGTH), row_seeds(0, 0, input_ids, mask), [END])
    for seed in (1, 2):
        set_seed(seed)
        states = torch.get_rng_state(), random.getstate()
        choose_rows(0.5, arguments[3])
        assert as_lists(sample_student(student, *arguments)) == drawn
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]


def test_the_student_is_left_as_it_was(student):
    student.get_encoder().eval()
    modes = {name: module.training for name, module in student.named_modules()}
    assert len(set(modes.values())) == 2
    own, settings = student.generation_config, copy.deepcopy(student.generation_config.to_dict())
    config = copy.deepcopy(student.config.to_dict())
    rows = sources(4, 6)
    in_training = draw(student, rows)

    assert {name: module.training for name, module in student.named_modules()} == modes
    assert student.generation_config is own
    assert own.to_dict() == settings
    assert student.config.to_dict() == config
    # and it had no dropout
    assert draw(student.eval(), rows) == in_training


def test_the_student_is_left_as_it_was_after_an_error(student):
    own = student.generation_config
    student.get_encoder().register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(student, sources(4))
    assert all(module.training for module in student.modules())
    assert student.generation_config is own


def test_settings_of_the_student_for_its_users_do_not_count(student):
    rows = sources(4, 6)
    drawn = draw(student, rows)
    ids = {name: getattr(student.generation_config, name) for name in ("bos_token_id", "decoder_start_token_id")}
    student.generation_config = GenerationConfig(
        **ids,
        do_sample=True,
        temperature=0.1,
        top_k=2,
        top_p=0.5,
        num_beams=3,
        num_return_sequences=2,
        max_length=3,
        min_length=7,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        forced_bos_token_id=5,
        forced_eos_token_id=6,
        suppress_tokens=[3, 4],
        begin_suppress_tokens=[6, 7, 8],
        sequence_bias={(9,): 10.0},
        eos_token_id=4,
        pad_token_id=3,
        use_cache=False,
        return_dict_in_generate=True,
    )
    assert draw(student, rows) == drawn


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_decodes_with_a_cache(student, checkpointing):
    student.config.use_cache = student.generation_config.use_cache = False
    if checkpointing:
        student.gradient_checkpointing_enable()
        student.enable_input_require_grads()
    widths, graphs = [], []

    def look(_module, _arguments, options, outputs):
        widths.append(options["decoder_input_ids"].shape[1])
        graphs.append(outputs.logits.requires_grad)

    student.register_forward_hook(look, with_kwargs=True)
    modes = student.training, student.is_gradient_checkpointing
    draw(student, sources(4, 6))
    assert len(widths) > 2
    assert set(widths) == {1}
    assert not any(graphs)
    assert student.config.use_cache is False
    assert (student.training, student.is_gradient_checkpointing) == modes == (True, checkpointing)


def test_targets_end_with_the_first_end_or_are_cut(student):
    # all tokens are likely enough, and targets long enough, that both occur
    rows, sampling = sources(*range(3, 23)), Sampling(max_new_tokens=5, temperature=2.0)
    for ends in ([END], [END, 7]):
        drawn = draw(student, rows, sampling=sampling, ends=ends)
        ended = [row for row in drawn if row[-1] in ends]
        assert 0 < len(ended) < len(rows)
        assert all(not set(ends) & set(row[:-1]) for row in drawn)
        assert all(len(row) == 5 for row in drawn if row[-1] not in ends)
        assert {row[-1] for row in ended} == set(ends)


@pytest.mark.parametrize("ends", [(END,), (7, END), tuple(range(VOCAB))])
def test_nothing_is_decoded_behind_the_end(student, ends):
    steps = []
    student.register_forward_hook(lambda *_: steps.append(1))
    for row in sources(3, 4, 5):
        steps.clear()
        assert len(draw(student, [row], ends=ends)[0]) == len(steps)


def test_tokens_that_begin_a_target_are_its_own():
    # a BART that puts its BOS token first, as the released ones do
    model = random_weights(bart)
    model.final_logits_bias[0, model.config.bos_token_id] = 30.0
    assert draw(model, sources(4), sampling=Sampling(max_new_tokens=3)) == [[model.config.bos_token_id] * 3]


def test_only_shared_ids_are_sampled(student):
    rows, sampling = sources(*range(3, 23)), Sampling(max_new_tokens=6, temperature=3.0, shared_ids=6)
    assert set().union(*draw(student, rows, sampling=sampling)) == set(range(6))


def test_the_teacher_ends_as_the_student_does(teacher):
    rows, student_end = sources(*range(3, 23)), 5
    sampling = Sampling(max_new_tokens=LENGTH, temperature=3.0)
    plain = answer(teacher, rows, sampling=sampling)
    exchanged = answer(teacher, rows, exchange=(student_end, END), sampling=sampling)
    swap = {student_end: END, END: student_end}
    assert exchanged == [[swap.get(token, token) for token in row] for row in plain]
    assert any(row[-1] == student_end for row in exchanged)
    assert any(END in row for row in exchanged)


def test_the_teacher_may_end_by_a_token_that_the_student_does_not_know(teacher):
    # its end, 9, is none of the shared ids; the student's, 5, stands for it
    sampling = Sampling(max_new_tokens=LENGTH, shared_ids=8)
    answers = answer(teacher, sources(4, 2, 6, 3, 5, 7), ends=(9,), exchange=(5, 9), sampling=sampling)
    assert any(len(row) < LENGTH for row in answers)
    assert all(row[-1] == 5 for row in answers if len(row) < LENGTH)
    # nor does it say 5 in between, which would become 9
    assert all(token < 8 for row in answers for token in row)


def test_the_teacher_has_several_ends_and_the_student_one(teacher):
    rows, ends = sources(*range(3, 23)), (END, 7)
    sampling = Sampling(max_new_tokens=LENGTH, temperature=2.0)
    drawn = answer(teacher, rows, ends=ends, sampling=sampling)
    ended = [row for row in drawn if len(row) < LENGTH]
    assert {row[-1] for row in ended} == {END}
    assert not any(7 in row for row in drawn)
    exchanged = answer(teacher, rows, ends=ends, exchange=(5, 7), sampling=sampling)
    assert {row[-1] for row in exchanged if len(row) < LENGTH} == {5}
    assert list(map(len, exchanged)) == list(map(len, drawn))


def test_what_does_not_fit(teacher):
    model, (input_ids, mask), sampling = random_weights(t5), padded(sources(3, 5)), Sampling(max_new_tokens=4)
    with pytest.raises(ValueError, match="3 seeds for 2 rows"):
        sample_student(model, input_ids, mask, sampling, [1, 2, 3], [END])
    with pytest.raises(ValueError, match="eos_token_ids is empty"):
        sample_student(model, input_ids, mask, sampling, [1, 2], [])
    with pytest.raises(ValueError, match="only ids below 2 are sampled"):
        sample_student(model, input_ids, mask, Sampling(max_new_tokens=4, shared_ids=2), [1, 2], [END])
    with pytest.raises(ValueError, match="pad the prompts on the left"):
        sample_teacher(teacher, input_ids, mask, sampling, [1, 2], [END])
    with pytest.raises(ValueError, match="the teacher ends with 7"):
        sample_teacher(teacher, input_ids[:, :3], mask[:, :3], sampling, [1, 2], [END], (5, 7))
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose_rows(1.1, [1])
    with pytest.raises(ValueError, match="shapes"):
        row_seeds(0, 0, input_ids, mask[:1])


def test_suppressed_ids_are_not_sampled():
    model, rows = random_weights(t5), sources(*[4] * 40)
    every, fewer = (
        {token for answer in draw(model, rows, sampling=sampling) for token in answer}
        for sampling in (Sampling(max_new_tokens=LENGTH), Sampling(max_new_tokens=LENGTH, suppressed_ids=(4, 5, 99)))
    )
    assert {4, 5} <= every
    assert not {4, 5} & fewer
    assert len(fewer) > 4
