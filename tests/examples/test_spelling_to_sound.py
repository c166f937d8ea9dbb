"""The demo from end to end with a few steps, and its parts: tokenizer, scores, refusals."""

from functools import partial

import pytest
import spelling_to_sound
from data.cmudict import CMUDict, dictionary_path, parse
from datasets import Dataset
from spelling_to_sound import RECIPE, WORDS_TO_SAY, build_tokenizer, build_trainer, error_rates, main, pronounce
from transformers import AutoTokenizer, Seq2SeqTrainingArguments, pipeline


LETTERS = "abcdefghijklmnopqrstuvwxyz'-."
PHONES = ("AH", "B", "EY", "IH", "IY", "JH", "K", "N", "OW", "S", "T", "V", "Z")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As anybody gets it from the folder that it was saved to."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(LETTERS, PHONES).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Arguments of a run of some seconds, its folder and its scores."""
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spelling_to_sound, "CMUDict", partial(spelling_to_sound.CMUDict, cache_dir=root / "cache"))
        arguments = ["--output_dir", str(root / "model"), "--max_steps", "3", "--train_words", "600"]
        arguments += [
            "--test_words",
            "40",
            "--per_device_train_batch_size",
            "16",
            "--use_cpu",
            "--disable_tqdm",
            "true",
        ]
        yield arguments, root / "model", main(arguments)


def test_the_saved_model_answers_as_the_trained_one(run):
    _, folder, scores = run
    rows = CMUDict(cache_dir=folder.parent / "cache").as_dataset("test").select(range(40))
    answers = pipeline("text2text-generation", model=str(folder), device="cpu")(list(rows["source"]))
    assert error_rates([answer["generated_text"] for answer in answers], rows) == scores["the model"]


def test_a_run_scores_the_baseline_and_the_model_on_the_same_words(run):
    _, _, scores = run
    for rates in scores.values():
        assert rates["any"] <= rates["words"] <= 1
    assert scores["letter by letter"]["phonemes"] < 0.6
    # three steps teach a model nothing
    assert scores["the model"]["phonemes"] > scores["letter by letter"]["phonemes"]


def test_a_second_run_refuses_the_folder_and_leaves_it(run):
    arguments, folder, _ = run
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="already holds something"):
        main(arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_overwrite_replaces_the_model(run):
    arguments, folder, _ = run
    before = (folder / "model.safetensors").read_bytes()
    main([*arguments, "--overwrite", "--seed", "7"])
    assert (folder / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize("text", ["Z IH Z IH V AH", "AH", "B", "T OW"])
def test_pronunciations_come_back_from_their_tokens(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("word", ["zyzzyva", "o'brien", "x-ray", "b.c."])
def test_a_word_is_its_letters(tokenizer, word):
    assert tokenizer(word).tokens() == [*word, "</s>"]


@pytest.mark.parametrize(
    ("written", "read"),
    [("Beyonc\u00e9", "beyonce"), ("NASA", "nasa"), ("McVey", "mcvey"), ("iBook", "ibook"), ("O'B", "o'b")],
)
def test_capitals_and_accents_of_a_word_do_not_matter(tokenizer, written, read):
    assert tokenizer(written)["input_ids"] == tokenizer(read)["input_ids"]


def test_what_is_in_no_word_is_unknown(tokenizer):
    assert tokenizer("b2b").tokens() == ["b", "<unk>", "b", "</s>"]


def test_answers_are_in_the_order_of_the_words(tmp_path):
    words = ["b", "tack", "oval", "a", "knotty", "bee", "sat", "obvious", "tea", "jam"]
    columns = {"source": words, "target": ["AH B"] * 10, "pronunciations": [["AH B"]] * 10}
    rows = Dataset.from_dict(columns)
    changes = {"output_dir": str(tmp_path), "per_device_eval_batch_size": 3, "use_cpu": True, "disable_tqdm": True}
    trainer = build_trainer(rows, Seq2SeqTrainingArguments(**RECIPE | changes))
    answers = pronounce(trainer, rows)
    assert len(set(answers)) > 3
    assert answers == [pronounce(trainer, rows.select([index]))[0] for index in range(10)]


def test_the_words_to_say_are_not_in_the_dictionary(tokenizer):
    with dictionary_path().open(encoding="utf-8") as lines:
        words = parse(lines, stress=False)
    assert not {"".join(tokenizer(word).tokens()[:-1]) for word in WORDS_TO_SAY} & words.keys()


def test_error_rates_by_hand():
    rows = Dataset.from_dict(
        {
            "source": ["a", "bee"],
            "target": ["AH", "B IY"],
            "pronunciations": [["AH", "EY"], ["B IY"]],
        }
    )
    assert error_rates(["AH", "B IY"], rows) == {"phonemes": 0, "words": 0, "any": 0}
    assert error_rates(["EY", "B IY"], rows) == {"phonemes": 1 / 3, "words": 1 / 2, "any": 0}
    assert error_rates(["", "B IY IY"], rows) == {"phonemes": 2 / 3, "words": 1, "any": 1}
