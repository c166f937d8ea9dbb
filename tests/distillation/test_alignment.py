"""What a teacher says about a target token is said one position before it, whatever else is in the batch."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from encdec_slm.distillation.alignment import (
    TeacherInputs,
    exchange_ids,
    labels_of_samples,
    positions_from_mask,
    predictions_of_target,
    read_after_prompt,
)
from encdec_slm.distillation.chunked_divergence import LazyLogits, Objective, distillation_loss


PAD, VOCAB = 0, 20
# of unequal lengths; the padding token is also an ordinary one in both
PROMPTS = [[5, 0, 6], [7], [8, 9, 10, 0, 11]]
TARGETS = [[12, 0, 13, 2], [14, 2], [15]]


def batch_of(prompts, targets, pad=PAD, dtype=torch.long):
    """Returns the arguments of `read_after_prompt`; targets are padded with -100."""
    longest, most = max(map(len, prompts)), max(map(len, targets))
    return (
        torch.tensor([[pad] * (longest - len(row)) + row for row in prompts]),
        torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts]).to(dtype),
        torch.tensor([row + [-100] * (most - len(row)) for row in targets]),
        torch.tensor([[1] * len(row) + [0] * (most - len(row)) for row in targets]).to(dtype),
    )


def tiny_model(family):
    sizes = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
    if family == "llama":
        config = LlamaConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3,
            **sizes,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.3, **sizes)
    return GPT2LMHeadModel(config).eval()


@torch.no_grad()
def predictions(model, inputs, **options):
    values = model(inputs.input_ids, attention_mask=inputs.attention_mask, position_ids=inputs.position_ids, **options)
    return predictions_of_target(values.logits, inputs.target_length)


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.bool])
def test_a_row_is_its_prompt_and_its_target_without_a_gap(dtype):
    inputs = read_after_prompt(*batch_of(PROMPTS, TARGETS, dtype=dtype), pad_token_id=PAD)
    assert inputs.target_length == 4
    for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        mask = inputs.attention_mask[row].bool()
        assert inputs.input_ids[row][mask].tolist() == [*prompt, *target]
        assert inputs.position_ids[row][mask].tolist() == list(range(len(prompt) + len(target)))
        # all targets begin in the same column
        assert inputs.input_ids[row, -4:][: len(target)].tolist() == target
    assert inputs.position_ids.min() == 0
    assert inputs.input_ids[inputs.attention_mask == 0].eq(PAD).all()


@pytest.mark.parametrize("kept", [None, 0, 3])
def test_each_target_token_is_predicted_at_the_position_before_it(kept):
    inputs = read_after_prompt(*batch_of(PROMPTS, TARGETS), pad_token_id=PAD)
    # a teacher that knows the next token of every place: what it says at a position is a function of that place
    following = inputs.input_ids.roll(-1, dims=1)
    logits = torch.nn.functional.one_hot(following, VOCAB)
    values = logits if kept is None else logits[:, -(inputs.target_length + 1) - kept :]
    predicted = predictions_of_target(values, inputs.target_length).argmax(-1)
    for row, target in enumerate(TARGETS):
        assert predicted[row, : len(target)].tolist() == target


def test_a_teacher_that_knows_which_token_follows_which_predicts_the_target():
    # the successor of a token is a function of the token alone
    successor = torch.randperm(VOCAB)
    chain = [3]
    for _ in range(9):
        chain.append(int(successor[chain[-1]]))
    inputs = read_after_prompt(*batch_of([chain[:4], chain[2:4]], [chain[4:], chain[4:8]]), pad_token_id=PAD)
    values = torch.nn.functional.one_hot(successor[inputs.input_ids], VOCAB)
    for given in (values, values[:, -inputs.target_length - 1 :]):
        predicted = predictions_of_target(given, inputs.target_length).argmax(-1)
        assert predicted[0].tolist() == chain[4:]
        assert predicted[1, :4].tolist() == chain[4:8]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_row_is_predicted_as_if_it_were_alone(family):
    model = tiny_model(family)
    inputs = read_after_prompt(*batch_of(PROMPTS, TARGETS), pad_token_id=PAD)
    together = predictions(model, inputs)
    kept = predictions(model, inputs, logits_to_keep=inputs.target_length + 1)
    torch.testing.assert_close(kept, together)
    for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        alone = predictions(model, read_after_prompt(*batch_of([prompt], [target]), pad_token_id=PAD))
        torch.testing.assert_close(together[row : row + 1, : len(target)], alone, rtol=1e-4, atol=1e-5)


def test_positions_that_are_columns_would_be_noticed():
    inputs = read_after_prompt(*batch_of(PROMPTS, TARGETS), pad_token_id=PAD)
    columns = torch.arange(inputs.input_ids.shape[1]).expand_as(inputs.input_ids)
    counted = TeacherInputs(inputs.input_ids, inputs.attention_mask, columns, inputs.target_length)
    model = tiny_model("gpt2")
    assert (predictions(model, inputs)[1, :2] - predictions(model, counted)[1, :2]).abs().max() > 0.1


def test_a_target_without_columns_has_no_predictions():
    inputs = read_after_prompt(*batch_of([[5]], [[]])[:2], *torch.zeros(2, 1, 0, dtype=torch.long), pad_token_id=PAD)
    assert predictions_of_target(torch.randn(1, 1, VOCAB), inputs.target_length).shape == (1, 0, VOCAB)


def test_positions_of_padding_are_in_range():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert positions_from_mask(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
    assert torch.equal(positions_from_mask(mask.bool()), positions_from_mask(mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: torch.tensor([[1, 1, 0]])}, "empty or not padded on the left"),
        ({1: torch.tensor([[0, 0, 0]])}, "empty or not padded on the left"),
        ({3: torch.tensor([[0, 1]])}, "not padded on the right"),
    ],
)
def test_padding_on_the_wrong_side_is_refused(change, message):
    arguments = dict(enumerate(batch_of([[5, 6, 7]], [[8, 2]]))) | change
    with pytest.raises(ValueError, match=message):
        read_after_prompt(*arguments.values(), pad_token_id=PAD)


def test_too_few_positions_are_refused():
    with pytest.raises(ValueError, match=r"4 positions cannot predict a target of 4: .* keep at least 5"):
        predictions_of_target(torch.randn(1, 4, VOCAB), 4)


def test_an_exchange_is_its_own_inverse_and_keeps_all_other_ids():
    ids = torch.tensor([[2, 5, 7, -100], [0, 7, 2, 2]])
    exchanged = exchange_ids(ids, (2, 7))
    assert exchanged.tolist() == [[7, 5, 2, -100], [0, 2, 7, 7]]
    assert torch.equal(exchange_ids(exchanged, (7, 2)), ids)
    assert exchange_ids(ids, None) is ids


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_exchanged_logits_are_those_of_the_exchanged_ids(softcap):
    parts = torch.randn(2, 3, 4), torch.randn(VOCAB, 4), torch.randn(VOCAB), softcap
    plain, exchanged = LazyLogits(*parts).logits(), LazyLogits(*parts, exchange=(2, 7)).logits()
    ids = torch.arange(VOCAB)
    assert torch.equal(exchanged, plain[..., exchange_ids(ids, (2, 7))])
    torch.testing.assert_close(LazyLogits(*parts, exchange=(2, 7))[:, 1:].logits(), exchanged[:, 1:])


def test_a_loss_and_its_gradient_know_of_the_exchange_on_both_sides():
    def head():
        return torch.randn(2, 3, 4).requires_grad_(), torch.randn(VOCAB, 4).requires_grad_()

    labels, order = torch.tensor([[2, 7, 9], [7, 2, -100]]), exchange_ids(torch.arange(VOCAB), (2, 7))
    student, teacher = head(), head()
    # a head whose rows have changed places says the same
    expected = distillation_loss(
        LazyLogits(student[0], student[1][order]), LazyLogits(teacher[0], teacher[1][order]), labels,
        objective=Objective(), chunk_size=2,
    )  # fmt: skip
    gradients = torch.autograd.grad(expected.loss, student)
    loss = distillation_loss(
        LazyLogits(*student, exchange=(2, 7)), LazyLogits(*teacher, exchange=(2, 7)), labels, objective=Objective(),
        chunk_size=2,
    )  # fmt: skip
    torch.testing.assert_close(loss.loss, expected.loss)
    torch.testing.assert_close(loss.divergence, expected.divergence)
    torch.testing.assert_close(torch.autograd.grad(loss.loss, student), gradients)
    one_side = distillation_loss(
        LazyLogits(*student), LazyLogits(*teacher, exchange=(2, 7)), labels, objective=Objective()
    )
    assert abs(one_side.divergence - loss.divergence) > 1e-3


def test_ids_outside_the_vocabulary_cannot_be_exchanged():
    with pytest.raises(ValueError, match=r"\(2, 20\) are to be exchanged, but the vocabulary has 20"):
        LazyLogits(torch.randn(1, 2, 4), torch.randn(VOCAB, 4), exchange=(2, VOCAB))


EOS = 2


@pytest.mark.parametrize(
    ("sample", "ends", "labels"),
    [
        # the padding id is the end's own: only the first one is learned
        ([5, 6, EOS, EOS, EOS], EOS, [5, 6, EOS, -100, -100]),
        # ... or is that of an ordinary token before the end
        ([5, PAD, EOS, PAD, PAD], EOS, [5, PAD, EOS, -100, -100]),
        # ended at once
        ([EOS, PAD, PAD, PAD, PAD], EOS, [EOS, -100, -100, -100, -100]),
        # cut at the maximal length
        ([5, 6, PAD, 7, 8], EOS, [5, 6, PAD, 7, 8]),
        # an end in the last column
        ([5, 6, 7, 8, EOS], EOS, [5, 6, 7, 8, EOS]),
        # several ends: the first of any of them
        ([5, 9, EOS, PAD, PAD], [EOS, 9], [5, 9, -100, -100, -100]),
        ([5, EOS, 9, PAD, PAD], (9, EOS), [5, EOS, -100, -100, -100]),
        ([5, EOS, 9, PAD, PAD], [9], [5, EOS, 9, -100, -100]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_sample_is_learned_up_to_its_first_end(sample, ends, labels, dtype):
    samples = torch.tensor([sample], dtype=dtype)
    before = samples.clone()
    result = labels_of_samples(samples, eos_token_ids=ends)
    assert result.tolist() == [labels]
    assert result.dtype == dtype
    assert torch.equal(samples, before)


def test_a_start_token_that_is_an_end_ends_nothing():
    # BART's decoder starts with its end-of-sequence token
    samples = torch.tensor([[EOS, 5, EOS, PAD], [EOS, EOS, PAD, PAD], [EOS, 5, 6, 7]])
    assert labels_of_samples(samples, eos_token_ids=EOS, prefix_length=1).tolist() == [
        [5, EOS, -100],
        [EOS, -100, -100],
        [5, 6, 7],
    ]
