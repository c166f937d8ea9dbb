"""The demo from end to end with a few steps."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import spelling_report
import spelling_to_sound
from data.cmudict import CMUDict, dictionary_path
from data.cmudict import parse as parse_dictionary
from safetensors.torch import load_file
from spelling_scores import error_rates, pronounce
from spelling_students import student_trainer
from spelling_teacher import TEACHER_TEMPLATE
from spelling_to_sound import ALONE, BESIDE, DISTILLED, PICTURE, RECORD, TEACHER, WORDS_TO_SAY, main, parse
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Arguments of a run of some seconds, its folder, what it returned, and the words that it scored."""
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spelling_to_sound, "CMUDict", partial(CMUDict, cache_dir=root / "cache"))
        # how fast they are is not what is tested here
        patch.setattr(spelling_report, "NEW_TOKENS", 2)
        patch.setattr(spelling_report, "TURNS", 1)
        flags = "--max_steps 3 --teacher_steps 3 --train_words 600 --test_words 20 --threads 1 --disable_tqdm true"
        arguments = ["--output_dir", str(root / "model"), "--per_device_train_batch_size", "16", *flags.split()]
        entries = {entry.name: entry for entry in main(arguments)}
        yield SimpleNamespace(
            arguments=arguments,
            folder=root / "model",
            entries=entries,
            rows=CMUDict(cache_dir=root / "cache").as_dataset("test").select(range(20)),
        )


def test_teacher_and_both_students_are_compared(run):
    assert list(run.entries) == [TEACHER, ALONE, DISTILLED]
    for entry in run.entries.values():
        assert entry.any_error_rate <= entry.word_error_rate <= 1
    assert run.entries[ALONE].parameters == run.entries[DISTILLED].parameters < run.entries[TEACHER].parameters


def test_the_saved_models_answer_as_the_scored_ones(run):
    words = list(run.rows["source"])
    answers = {
        DISTILLED: [
            answer["generated_text"]
            for answer in pipeline("text2text-generation", model=str(run.folder), device="cpu")(words)
        ]
    }
    for name, auto, template in (
        (TEACHER, AutoModelForCausalLM, TEACHER_TEMPLATE),
        (ALONE, AutoModelForSeq2SeqLM, "{source}"),
    ):
        folder = run.folder / BESIDE[name]
        model, tokenizer = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        answers[name] = pronounce(model, tokenizer, words, template)
    for name, entry in run.entries.items():
        assert error_rates(answers[name], run.rows)["phonemes"] == entry.phoneme_error_rate


def test_the_record_and_the_picture_are_beside_the_model(run):
    record = json.loads((run.folder / RECORD).read_text())
    assert {model["name"]: model["word_error_rate"] for model in record["models"]} == {
        name: entry.word_error_rate for name, entry in run.entries.items()
    }
    assert record["seconds"].keys() >= {TEACHER, ALONE, DISTILLED}
    assert (run.folder / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_teacher_makes_a_difference(run):
    alone, distilled = (load_file(folder / "model.safetensors") for folder in (run.folder / BESIDE[ALONE], run.folder))
    assert alone.keys() == distilled.keys()
    assert any(not alone[name].equal(distilled[name]) for name in alone)


def test_students_start_alike_and_read_the_same_words_in_the_same_order(run, tmp_path, monkeypatch):
    _, training = parse([*run.arguments, "--output_dir", str(tmp_path)])
    teacher = AutoModelForCausalLM.from_pretrained(run.folder / BESIDE[TEACHER])
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    starts, batches = [], []
    for guide in (None, teacher):
        trainer = student_trainer(run.rows, tokenizer, training, guide)
        starts.append({name: weight.clone() for name, weight in trainer.model.state_dict().items()})
        batches.append(labels_read(trainer, monkeypatch))
    assert all(starts[0][name].equal(starts[1][name]) for name in starts[0])
    assert len(batches[0]) == 3
    assert batches[0] == batches[1]


def labels_read(trainer, monkeypatch):
    """The labels of all batches of a training."""
    read = []
    training_step = trainer.training_step

    def spy(model, inputs, *rest):
        read.append(inputs["labels"].tolist())
        return training_step(model, inputs, *rest)

    monkeypatch.setattr(trainer, "training_step", spy)
    trainer.train()
    return read


def test_a_second_run_refuses_the_folder_and_leaves_it(run):
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="already holds something"):
        main(run.arguments)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()} == before


def test_overwrite_replaces_the_models(run, tmp_path):
    places = [run.folder, *(run.folder / name for name in BESIDE.values())]
    before = [(place / "model.safetensors").read_bytes() for place in places]
    main([*run.arguments, "--overwrite", "--seed", "7"])
    after = [(place / "model.safetensors").read_bytes() for place in places]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_the_words_to_say_are_not_in_the_dictionary(run):
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    with dictionary_path().open(encoding="utf-8") as lines:
        words = parse_dictionary(lines, stress=False)
    assert not {"".join(tokenizer(word).tokens()[:-1]) for word in WORDS_TO_SAY} & words.keys()
