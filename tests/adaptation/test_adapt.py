"""Any encoder-decoder learns from text alone; the command saves what it learnt and goes on where it was stopped."""

import json
import random
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from encdec_slm.adaptation import DataCollatorForDenoising, DenoisedDataset, PrefixLM, SpanCorruption, adapt
from encdec_slm.adaptation.__main__ import main, parse
from encdec_slm.adaptation.arguments import AdaptationArguments
from encdec_slm.adaptation.denoising import UL2_X


def sentences(number, seed=0):
    """Rows of the alphabet that start anywhere: who reads a part knows the rest."""
    choose = random.Random(seed)
    for _ in range(number):
        start = choose.randrange(26)
        yield " ".join(chr(97 + (start + place) % 26) for place in range(choose.randrange(12, 24)))


@pytest.fixture(autouse=True)
def _cache_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def student(tmp_path, build_model, build_tokenizer):
    """The folder of a model without sentinels, and of its tokenizer."""
    build_model("ours", vocab_size=60).save_pretrained(tmp_path / "student")
    build_tokenizer("none", sentinels=0).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def run(tmp_path, student):
    """Runs the command on a text file, with options on top of the usual ones."""
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(sentences(160)))

    def run(output, **options):
        options = {
            "model_name_or_path": student,
            "train_file": text,
            "output_dir": tmp_path / output,
            "num_sentinels": 12,
            "chunk_length": 24,
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            **options,
        }
        argv = []
        for name, value in options.items():
            argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return main([part for part in argv if part != "None"])

    return run


def weights(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("family", ["t5", "bart", "ours"])
def test_every_family_learns_to_fill_in_spans(build_model, tokenizer, family, tmp_path):
    model = build_model(family)
    texts = [{"input_ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in sentences(400)]
    collator = DataCollatorForDenoising(tokenizer, {SpanCorruption(): 1.0}, model=model)
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), max_steps=60, learning_rate=1e-2, per_device_train_batch_size=16, use_cpu=True,
        report_to=[], disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    fixed = DenoisedDataset(texts[:40], DataCollatorForDenoising(tokenizer, {SpanCorruption(): 1.0}, seed=0))
    trainer = Seq2SeqTrainer(
        model=model, args=args, train_dataset=texts[40:], eval_dataset=fixed, data_collator=collator
    )
    before = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == before
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before


def test_the_command_adapts_saves_and_tells(run, student, tmp_path, capsys):
    result = run("out", max_steps=40)
    assert result.loss_after < 0.8 * result.loss_before
    out = capsys.readouterr().out
    assert f"{result.loss_before:.4f} before, {result.loss_after:.4f} after" in out
    saved = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert saved == {"eval_loss_before": result.loss_before, "eval_loss_after": result.loss_after}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == model.config.vocab_size == 72
    # what was saved is what was evaluated, and it is no longer the student
    again = run("again", model_name_or_path=tmp_path / "out", max_steps=1, learning_rate=1e-9)
    assert again.loss_before == pytest.approx(result.loss_after, rel=1e-4)
    assert AutoModelForSeq2SeqLM.from_pretrained(student).config.vocab_size == 60


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "dataloader_num_workers": 1}])
def test_a_training_that_was_stopped_goes_on_as_if_it_were_not(run, tmp_path, options):
    # eight batches an epoch, and dropout, as always
    options = {
        "save_strategy": "steps",
        "save_steps": 11,
        "max_steps": 16,
        "per_device_train_batch_size": 16,
        **options,
    }
    whole = run("whole", **options)
    resumed = run("whole_resumed", **options, resume_from_checkpoint=tmp_path / "whole" / "checkpoint-11")
    assert resumed == whole
    assert json.loads((tmp_path / "whole" / "checkpoint-11" / "trainer_state.json").read_text())["epoch"] > 1
    expected, actual = weights(tmp_path / "whole"), weights(tmp_path / "whole_resumed")
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())


def test_a_stream_is_learnt_from_again_and_again(run):
    options = {"streaming": True, "max_eval_samples": 20}
    result = run("stream", **options, max_steps=40)
    assert result.loss_after < 0.8 * result.loss_before


def test_a_stream_resumes_too(run, tmp_path):
    options = {"streaming": True, "max_eval_samples": 20, "max_steps": 8, "save_strategy": "steps", "save_steps": 5}
    whole = run("whole", **options)
    assert run("resumed", **options, resume_from_checkpoint=tmp_path / "whole" / "checkpoint-5") == whole


def test_noise_is_new_in_every_epoch_and_evaluation_asks_the_same(student, tmp_path, monkeypatch):
    seen = []
    denoise = DataCollatorForDenoising.denoise

    def watched(collator, feature):
        pair = denoise(collator, feature)
        seen.append((collator.seed, str(pair)))
        return pair

    monkeypatch.setattr(DataCollatorForDenoising, "denoise", watched)
    (tmp_path / "texts.txt").write_text("\n".join(sentences(8)))
    arguments = AdaptationArguments(
        model_name_or_path=str(student), train_file=[str(tmp_path / "texts.txt")], pack=False, num_sentinels=30
    )
    training = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=4, use_cpu=True, report_to=[], disable_tqdm=True,
        eval_strategy="epoch", save_strategy="no", seed=5,
    )  # fmt: skip
    adapt.adapt(arguments, training)
    learnt, asked = ([pair for seed, pair in seen if seed == which] for which in (5, 0))
    assert len(learnt) == 4 * 7
    assert len(set(learnt)) > 3 * 7
    assert len(asked) == 6
    assert len(set(asked)) == 1


def test_what_is_frozen_stays_and_rates_reach_the_optimizer(run, student, tmp_path, monkeypatch):
    rates = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
            rates.extend(group["initial_lr"] for group in optimizer.param_groups)

    monkeypatch.setattr(adapt, "NewNoiseEachEpoch", lambda collator: Watch())
    run("out", max_steps=2, freeze=["encoder.layers"], learning_rate_multipliers=["encoder_attn=10", "mlp=0.5"])
    assert sorted(set(rates)) == pytest.approx([1.5e-3, 3e-3, 3e-2])
    before, after = weights(student), weights(tmp_path / "out")
    same = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    assert same == {name for name in before if "encoder.layers" in name}


def test_validation_files_are_held_out_whole(run, tmp_path):
    (tmp_path / "other.txt").write_text("\n".join(sentences(30, seed=1)))
    result = run("out", max_steps=1, validation_file=tmp_path / "other.txt")
    assert result != run("split", max_steps=1)


def test_json_lines_are_read_too(run, tmp_path):
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in sentences(160)))
    options = {"train_file": tmp_path / "texts.jsonl", "text_column": "body", "max_steps": 2}
    assert run("jsonl", **options) == run("txt", max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streaming": True}, "max_steps"),
        ({"streaming": True, "max_steps": 1}, "max_eval_samples"),
        ({"dataset_name": "some"}, "one of the two"),
        ({"train_file": "nowhere.txt"}, "nowhere.txt does not exist"),
        ({"train_file": "texts.pdf"}, "texts.pdf is of no kind"),
        ({"chunk_length": 400}, "400 tokens has 20 hidden spans, but num_sentinels is 12"),
        ({"prefix_lm_ratio": 0, "span_corruption_ratio": 0}, "nor all of them 0"),
        ({"prefix_lm_ratio": -1}, "none may be negative"),
        ({"learning_rate_multipliers": "encoder_attn"}, "form REGEX=FACTOR"),
        ({"learning_rate_multipliers": "=3"}, "has no pattern"),
        ({"freeze": "nothing_like_this"}, "nothing_like_this"),
        ({"validation_split_percentage": 100}, "validation_split_percentage is 100"),
        ({"sample_by": "word"}, "sample_by is 'word', use one of line, paragraph, document"),
        ({"max_train_samples": 0}, "max_train_samples is 0"),
        ({"max_train_samples": 1, "min_chunk_length": 24, "chunk_length": 24}, "no text to train on"),
        ({"max_eval_samples": 1, "min_chunk_length": 24, "chunk_length": 24}, "no text to evaluate on"),
        ({"text_column": "body"}, "no column 'body'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run("out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_is_not_written_over(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="already holds something"):
        run("out", max_steps=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_one_document_cannot_be_shared(run, tmp_path):
    (tmp_path / "one.txt").write_text("a b c d e f g h i j")
    with pytest.raises(ValueError, match="of 1 documents none can be held out"):
        run("out", train_file=tmp_path / "one.txt")


def test_ratios_name_the_denoisers():
    required = {"model_name_or_path": "m", "train_file": ["t.txt"]}
    assert AdaptationArguments(**required).denoisers() == {PrefixLM(): 0.5, SpanCorruption(): 0.5}
    only = AdaptationArguments(**required, prefix_lm_ratio=0.0, noise_density=0.2, extreme_denoising_ratio=0.4)
    assert only.denoisers() == {SpanCorruption(noise_density=0.2): 0.5, **dict.fromkeys(UL2_X, 0.1)}


@pytest.mark.slow
def test_the_parts_do_not_need_datasets():
    script = (
        "import sys; sys.modules |= {'datasets': None}; import encdec_slm.adaptation as parts; "
        "print(parts.UL2_S, parts.DataCollatorForDenoising, parts.freeze, parts.chunk_texts)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "PrefixLM" in done.stdout


def test_the_command_line_has_both_kinds_of_arguments():
    arguments, training = parse(
        [
            "--model_name_or_path",
            "m",
            "--train_file",
            "a.txt",
            "b.txt",
            "--no_pack",
            "--output_dir",
            "o",
            "--seed",
            "3",
        ]
    )
    assert arguments.train_file == ["a.txt", "b.txt"]
    assert not arguments.pack
    assert (training.output_dir, training.seed) == ("o", 3)
