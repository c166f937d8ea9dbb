"""A batch is its texts one by one, framed as the tokenizer and the model expect, with noise that can be repeated."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerState, set_seed

from encdec_slm.adaptation import UL2_R, UL2_S, UL2_X, DataCollatorForDenoising, DenoisedDataset, PrefixLM
from encdec_slm.adaptation.collator import NewNoiseEachEpoch, frame
from encdec_slm.adaptation.denoising import SpanCorruption, restore


MIXTURE = {PrefixLM(): 0.5, SpanCorruption(noise_density=0.3): 0.5}
SPANS = {SpanCorruption(noise_density=0.3): 1.0}
TEXTS = [{"input_ids": [4 + (7 * row + place) % 56 for place in range(5 + 6 * row)]} for row in range(6)]


@pytest.fixture
def collator(tokenizer):
    return DataCollatorForDenoising(tokenizer, MIXTURE, seed=1)


def rows(batch):
    """Sources and labels of a batch without padding."""
    return [
        (source[mask.bool()].tolist(), labels[labels != -100].tolist())
        for source, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


@pytest.mark.parametrize("multiple", [None, 8])
def test_a_batch_is_its_texts_one_by_one_padded_on_the_right(collator, multiple):
    collator.tokenizer.padding_side = "left"
    collator.pad_to_multiple_of = multiple
    batch = collator(TEXTS)
    singles = [collator.denoise(text) for text in TEXTS]
    for name, padding in (("input_ids", 0), ("labels", -100)):
        longest = max(len(single[name]) for single in singles)
        assert batch[name].shape == (6, longest if multiple is None else -(-longest // 8) * 8)
        assert batch[name].dtype == torch.int64
        for row, single in zip(batch[name].tolist(), singles, strict=True):
            assert row[: len(single[name])] == single[name]
            assert set(row[len(single[name]) :]) <= {padding}
    assert batch["attention_mask"].sum(1).tolist() == [len(single["input_ids"]) for single in singles]
    assert rows(batch) == [row for text in TEXTS for row in rows(collator([text]))]
    assert "decoder_input_ids" not in batch


def test_the_mask_is_that_of_the_lengths_where_padding_ends_sequences_too(build_tokenizer):
    tokenizer = build_tokenizer(pad_token="</s>")
    batch = DataCollatorForDenoising(tokenizer, MIXTURE)(TEXTS)
    for source, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
        assert source[length - 1] == tokenizer.eos_token_id
        assert labels[labels != -100].tolist().count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("kind", ["end", "both", "start", "none"])
def test_source_and_target_are_framed_as_the_tokenizer_does(build_tokenizer, kind):
    tokenizer = build_tokenizer(kind)
    collator = DataCollatorForDenoising(tokenizer, SPANS)
    words = "a b c d e f g h"
    before, after = {"end": ([], [2]), "both": ([1], [2]), "start": ([1], []), "none": ([], [])}[kind]
    assert frame(tokenizer) == (before, after)
    whole = tokenizer(words)["input_ids"]
    for text in (whole, tokenizer(words, add_special_tokens=False)["input_ids"]):
        pair = collator.denoise({"input_ids": text, "attention_mask": [1] * len(text)})
        source, labels = pair["input_ids"], pair["labels"]
        assert labels[-1] == 2
        assert labels[: len(before)] == before
        assert restore(source, labels[len(before) : -1], collator.sentinel_ids) == whole


def test_a_token_that_starts_the_decoder_is_not_repeated(build_tokenizer, build_model):
    # ours starts with <s>, BART with </s>
    tokenizer = build_tokenizer("both")
    for family, first in (("ours", 60), ("bart", 1)):
        batch = DataCollatorForDenoising(tokenizer, SPANS, model=build_model(family))(TEXTS)
        assert set(batch["labels"][:, 0].tolist()) == {first}
        assert not (batch["decoder_input_ids"][:, :2] == torch.tensor([1, 1])).all(1).any()


@pytest.mark.parametrize("family", ["t5", "bart", "ours"])
def test_decoder_inputs_are_the_labels_one_to_the_right(tokenizer, build_model, family):
    model = build_model(family)
    batch = DataCollatorForDenoising(tokenizer, MIXTURE, model=model)(TEXTS)
    assert torch.equal(batch["decoder_input_ids"], model.prepare_decoder_input_ids_from_labels(labels=batch["labels"]))
    for inputs, labels in zip(batch["decoder_input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        length = len(labels) - labels.count(-100)
        assert inputs[1:length] == labels[: length - 1]
    model.eval()
    loss = model(**batch).loss
    batch.pop("decoder_input_ids")
    torch.testing.assert_close(model(**batch).loss, loss)


def test_specials_in_a_text_are_shown_and_sentinels_dropped(tokenizer):
    collator = DataCollatorForDenoising(tokenizer, {**MIXTURE, **dict.fromkeys(UL2_X, 0.1)})
    text = [2, 0, 4, 5, 6, 2, 7, 8, 61, 9, 3, 2, 10, 11, 12, 2, 0, 0]
    for _ in range(100):
        pair = collator.denoise({"input_ids": text})
        assert pair["input_ids"][-1] == pair["labels"][-1] == 2
        assert 2 not in pair["labels"][:-1]
        assert {0, 1}.isdisjoint([*pair["input_ids"], *pair["labels"]])
        assert len({*pair["input_ids"]} - {2}) == len(pair["input_ids"]) - pair["input_ids"].count(2)
        if 60 in pair["labels"]:
            together = restore(pair["input_ids"], pair["labels"][:-1], collator.sentinel_ids)
            # the unknown word is a word
            assert together == [4, 5, 6, 2, 7, 8, 9, 3, 2, 10, 11, 12, 2]


def test_lengths_keep_their_limits(tokenizer):
    collator = DataCollatorForDenoising(
        tokenizer, {**MIXTURE, **dict.fromkeys(UL2_R, 0.2)}, max_source_length=14, max_target_length=9
    )
    for _ in range(50):
        batch = collator(TEXTS)
        assert batch["input_ids"].shape[1] <= 14
        assert batch["labels"].shape[1] <= 9
        assert all(source[-1] == labels[-1] == 2 for source, labels in rows(batch))
    # one limit alone binds one side alone
    free = DataCollatorForDenoising(tokenizer, {PrefixLM(): 1}, max_target_length=9)
    lengths = [tuple(free(TEXTS[-1:])[name].shape[1] for name in ("input_ids", "labels")) for _ in range(100)]
    assert max(source for source, _ in lengths) > 14
    assert max(target for _, target in lengths) <= 9


def test_the_mixture_is_that_of_the_ratios_and_the_mode_is_told(tokenizer):
    modes = {"R": 57, "S": 58, "X": 59}
    text = {"input_ids": list(range(4, 50))}
    mixture = {UL2_R[0]: 1, UL2_S[0]: 2, UL2_X[0]: 1, UL2_X[1]: 0}
    collator = DataCollatorForDenoising(tokenizer, mixture, mode_token_ids=modes)
    pairs = [collator.denoise(text) for _ in range(800)]
    first = [pair["input_ids"][0] for pair in pairs]
    # five standard deviations
    for mode, count in (("R", 200), ("S", 400), ("X", 200)):
        assert abs(first.count(modes[mode]) - count) < 5 * 15
    for pair in pairs:
        spans = sum(token in collator.sentinel_ids for token in pair["labels"])
        assert {57: spans == 2, 58: spans == 0, 59: spans == 8}[pair["input_ids"][0]]


def test_without_a_seed_noise_follows_the_global_generator(tokenizer):
    collator = DataCollatorForDenoising(tokenizer, MIXTURE)

    def draw(number=1):
        return [rows(collator(TEXTS)) for _ in range(number)]

    set_seed(5)
    first, second = draw(2)
    assert first != second
    set_seed(5)
    assert draw(2) == [first, second]


def test_workers_have_noise_of_their_own_that_the_seed_repeats(tokenizer):
    collator = DataCollatorForDenoising(tokenizer, MIXTURE)
    loader = DataLoader([TEXTS[-1]] * 8, batch_size=1, collate_fn=collator, num_workers=2)

    def epoch():
        return [str(rows(batch)) for batch in loader]

    set_seed(5)
    first, second = epoch(), epoch()
    assert len(set(first + second)) > 12
    set_seed(5)
    assert [epoch(), epoch()] == [first, second]


def test_with_a_seed_noise_is_a_function_of_seed_epoch_and_text(tokenizer, collator):
    whole = rows(collator(TEXTS))
    set_seed(99)
    assert rows(collator(TEXTS)) == whole
    for workers, batch_size in ((0, 4), (2, 2)):
        loader = DataLoader(TEXTS, batch_size=batch_size, collate_fn=collator, num_workers=workers)
        assert [row for batch in loader for row in rows(batch)] == whole
    assert rows(DataCollatorForDenoising(tokenizer, MIXTURE, seed=1)(TEXTS)) == whole
    assert rows(replace(collator, seed=2)(TEXTS)) != whole
    collator.set_epoch(1)
    assert rows(collator(TEXTS)) != whole
    collator.set_epoch(0)
    assert rows(collator(TEXTS)) == whole
    # and not of what carries the text
    assert rows(collator([{"input_ids": torch.tensor(text["input_ids"])} for text in TEXTS])) == whole


def test_workers_that_outlive_an_epoch_see_the_next(collator):
    loader = DataLoader(TEXTS, batch_size=3, collate_fn=collator, num_workers=1, persistent_workers=True)
    for epoch in range(3):
        collator.set_epoch(epoch)
        assert [row for batch in loader for row in rows(batch)] == rows(collator(TEXTS))


def test_epochs_are_counted_from_that_of_the_checkpoint(collator):
    callback, seen = NewNoiseEachEpoch(collator), []
    # a stream that begins anew three times before its steps are done
    for state in (TrainerState(epoch=2.5), TrainerState(epoch=0.0)):
        callback.on_train_begin(None, state, None)
        for _ in range(3):
            seen.append(collator.epoch)
            callback.on_epoch_end(None, state, None)
    assert seen == [2, 3, 4, 0, 1, 2]


def test_denoised_texts_stay_as_they_are(tokenizer, collator):
    fixed = DenoisedDataset(TEXTS, replace(collator, seed=0))
    training = DataCollatorForDenoising(tokenizer, MIXTURE)
    first, second = (rows(training([fixed[row] for row in range(len(fixed))])) for _ in range(2))
    assert first == second == rows(replace(collator, seed=0)(TEXTS))
    with pytest.raises(ValueError, match="has no seed"):
        DenoisedDataset(TEXTS, training)


def test_numpy_batches_are_the_same(tokenizer, build_model):
    collator = DataCollatorForDenoising(tokenizer, MIXTURE, seed=1, model=build_model("t5"))
    tensors, arrays = collator(TEXTS), collator(TEXTS, return_tensors="np")
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert not isinstance(array, torch.Tensor)
        assert array.tolist() == tensors[name].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoisers": {}}, "shares of the denoisers are"),
        ({"denoisers": {PrefixLM(): 0.0}}, "shares of the denoisers are"),
        ({"denoisers": {PrefixLM(): 1.0, SpanCorruption(): -1.0}}, "none may be negative"),
        ({"sentinel_ids": []}, "needs sentinels, but the tokenizer has none"),
        ({"max_source_length": 2}, "max_source_length is 2, but 1 tokens frame"),
        ({"max_target_length": 1}, "max_target_length is 1"),
        ({"mode_token_ids": {"S": 59}}, r"no token for the modes \['R'\]"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        DataCollatorForDenoising(tokenizer, **{"denoisers": MIXTURE, **options})


@pytest.mark.parametrize("name", ["pad_token", "eos_token"])
def test_a_tokenizer_must_pad_and_end(build_tokenizer, name):
    with pytest.raises(ValueError, match=f"no {name}"):
        DataCollatorForDenoising(build_tokenizer("none", **{name: None}), MIXTURE)


def test_a_prefix_needs_no_sentinels(build_tokenizer):
    collator = DataCollatorForDenoising(build_tokenizer(sentinels=0), {PrefixLM(): 1.0, SpanCorruption(): 0.0})
    pair = collator.denoise(TEXTS[0])
    assert pair["input_ids"][:-1] + pair["labels"][:-1] == TEXTS[0]["input_ids"]


def test_texts_and_tensors_that_cannot_be_are_refused(collator):
    with pytest.raises(ValueError, match="at least 2 are needed"):
        collator([{"input_ids": [2, 4, 2]}])
    with pytest.raises(ValueError, match="return_tensors is 'tf'"):
        collator(TEXTS, return_tensors="tf")
