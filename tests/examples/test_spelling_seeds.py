"""The comparison over seeds from end to end with a few steps, and what it concludes."""

import json
from functools import partial

import pytest
import spelling_seeds
from data.cmudict import CMUDict
from spelling_seeds import main, table
from spelling_teacher import build_teacher
from spelling_tokenizer import build_tokenizer


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command on few words with a teacher that has learnt nothing; returns its records."""
    monkeypatch.setattr(spelling_seeds, "CMUDict", partial(CMUDict, cache_dir=tmp_path / "cache"))
    builder = CMUDict(cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    rows = builder.as_dataset("train")
    tokenizer = build_tokenizer(set("".join(rows["source"])), set(" ".join(rows["target"]).split()))
    build_teacher(tokenizer).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    flags = "--words 40 80 --test_words 10 --seeds 2 --max_steps 2 --threads 1 --per_device_train_batch_size 8"

    def run(*more):
        return main(
            [
                *("--teacher", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "out")),
                *("--results", str(tmp_path / "results" / "seeds.json"), "--disable_tqdm", "true"),
                *flags.split(),
                *more,
            ]
        )

    return run


def test_each_student_is_trained_once_and_reported(run, tmp_path, capsys):
    records = {record["name"]: record for record in run()}
    kept = json.loads((tmp_path / "results" / "seeds.json").read_text())
    assert {record["name"]: record for record in kept} == records
    assert len(records) == 8
    for words in (40, 80):
        for seed in (0, 1):
            alone, taught = (records[f"{words}-{objective}-{seed}"] for objective in ("labels", "teacher"))
            assert alone["loss"] != taught["loss"]
        assert records[f"{words}-labels-0"]["loss"] != records[f"{words}-labels-1"]["loss"]
    assert (tmp_path / "results" / "seeds.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()

    assert {record["name"]: record for record in run()} == records
    assert capsys.readouterr().out.count("done already") == 8
    with pytest.raises(ValueError, match=r"was made with alpha 0\.5, not 0\.9"):
        run("--alpha", "0.9")


def test_a_missing_teacher_is_told(run, tmp_path):
    with pytest.raises(ValueError, match="run `make demo` first"):
        run("--teacher", str(tmp_path / "nowhere"))


def test_gains_are_told_seed_by_seed_and_of_all_seeds():
    def records(labels, teacher):
        # in any order: students of one seed find each other
        return [
            {"words": 7, "objective": objective, "seed": seed, "loss": rate, "phoneme_error_rate": rate}
            | {"word_error_rate": 0.5}
            for objective, rates in (("labels", labels), ("teacher", teacher))
            for seed, rate in sorted(enumerate(rates), reverse=objective == "teacher")
        ]

    apart = table(records([0.4, 0.35], [0.3, 0.1]))
    told = "lower with the teacher by 0.175 (0.100 to 0.250) seed by seed; the worst with it is 0.050 below the best"
    assert f"7 words, loss: {told}" in apart
    assert f"7 words, phonemes wrong: {told}" in apart
    assert "no better than the best without" in table(records([0.4, 0.35], [0.36, 0.1]))
