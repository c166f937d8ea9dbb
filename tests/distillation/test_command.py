"""The commands do what trainer and cache writer do, whether arguments come from a file or the command line."""

import json
import re

import pytest
import torch
import yaml
from datasets import Dataset
from distillation_tester import rows, student, teacher, trainer, word_tokenizer
from image_tester import image_rows, image_teacher, vision_student
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

from encdec_slm.cli import main
from encdec_slm.distillation.__main__ import build_parser, parse
from encdec_slm.distillation.__main__ import main as distill
from encdec_slm.distillation.row_sources import RowArguments, load_rows


QUIET = {
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "dataloader_pin_memory": False,
    "max_target_length": 12,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-2,
    "max_steps": 3,
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a student and of a teacher."""
    folder = tmp_path_factory.mktemp("models")
    student("ours").save_pretrained(folder / "student")
    word_tokenizer().save_pretrained(folder / "student")
    teacher().save_pretrained(folder / "teacher")
    word_tokenizer(end=None).save_pretrained(folder / "teacher")
    return {
        "model_name_or_path": str(folder / "student"),
        "teacher_name_or_path": str(folder / "teacher"),
    }


@pytest.fixture
def files(tmp_path):
    """Files of rows."""
    rows(8).to_json(tmp_path / "train.jsonl")
    rows(4, seed=1).to_json(tmp_path / "valid.jsonl")
    return {"train_file": str(tmp_path / "train.jsonl"), "validation_file": str(tmp_path / "valid.jsonl")}


@pytest.fixture
def recipe(models, files, tmp_path):
    """Writes a configuration file with some changes; returns its name."""

    def write(**changes):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**models, **files, **QUIET, **changes}))
        return str(path)

    return write


def flags(**options):
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


@pytest.fixture
def run(capsys):
    """Runs the command; returns exit code, standard output and the errors it told."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        errors = [line for line in re.split(r"[\r\n]", captured.err) if line.startswith("encdec-slm: error: ")]
        assert len(errors) == (code != 0)
        return code, captured.out, "".join(errors)

    return run


def weights(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()


def test_distill_ends_with_the_weights_of_the_trainer(run, models, files, tmp_path):
    options = flags(**models, **files, **QUIET, alpha=0.7)
    code, out, _ = run("distill", *options, "--output_dir", tmp_path / "out")
    assert code == 0
    by_hand = trainer(
        tmp_path / "by_hand", teacher_model=teacher(), data=rows(8), eval_dataset=rows(4, seed=1), alpha=0.7,
        max_steps=3,
    )  # fmt: skip
    by_hand.train()
    learnt = weights(tmp_path / "out")
    expected = by_hand.model.state_dict()
    assert all(torch.equal(learnt[name], expected[name]) for name in expected)
    loss = by_hand.evaluate()["eval_loss"]
    assert f"eval_loss {loss:.4f}" in out
    assert json.loads((tmp_path / "out/eval_results.json").read_text())["eval_loss"] == pytest.approx(loss)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a b")["input_ids"] == [4, 5, 2]


def test_the_command_line_comes_before_the_file(recipe, tmp_path):
    file = recipe(alpha=0.2, learning_rate="3e-4", teacher_model_init_kwargs={"dtype": "bfloat16"})
    script, student, training = parse(build_parser(), ["--config", file, "--alpha", "0.4", "--use_peft"])
    assert (training.alpha, training.learning_rate) == (0.4, 3e-4)
    assert training.teacher_model_init_kwargs == {"dtype": "bfloat16"}
    assert script.train_file == [str(tmp_path / "train.jsonl")]
    assert student.use_peft
    given = '{"dtype": "float32"}'
    _, _, training = parse(build_parser(), ["--config", file, "--teacher_model_init_kwargs", given])
    assert training.teacher_model_init_kwargs == {"dtype": "float32"}


def test_a_file_and_flags_train_alike(recipe, models, files, tmp_path):
    by_file = distill(["--config", recipe(), *flags(output_dir=tmp_path / "a", max_steps=2)])
    by_flags = distill(flags(**models, **files, **{**QUIET, "max_steps": 2}, output_dir=tmp_path / "b"))
    assert by_file["eval_loss"] == by_flags["eval_loss"]
    assert all(torch.equal(tensor, weights(tmp_path / "b")[name]) for name, tensor in weights(tmp_path / "a").items())


def test_an_interrupted_training_goes_on(recipe, tmp_path):
    file = recipe(max_steps=4, save_strategy="steps", save_steps=2, output_dir=str(tmp_path / "out"))
    results = tmp_path / "out/train_results.json"
    whole, loss = distill(["--config", file]), json.loads(results.read_text())["train_loss"]
    checkpoint = str(tmp_path / "out/checkpoint-2")
    again = distill(["--config", file, "--resume_from_checkpoint", checkpoint])
    assert again["eval_loss"] == pytest.approx(whole["eval_loss"], abs=1e-6)
    # the mean over the steps since then: from the beginning it would be the same again
    assert json.loads(results.read_text())["train_loss"] < 0.99 * loss


def test_an_adapter_is_what_is_saved(recipe, tmp_path):
    options = flags(use_peft=True, lora_r=2, lora_target_modules="all-linear", output_dir=tmp_path / "out")
    distill(["--config", recipe(), *options])
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["r"], config["task_type"]) == (2, "SEQ_2_SEQ_LM")
    assert not (tmp_path / "out/model.safetensors").exists()


def test_a_cache_trains_as_the_teacher_whose_top_k_it_has(run, recipe, tmp_path):
    config, cache = recipe(alpha=0.9), tmp_path / "cache"
    live = distill(["--config", config, *flags(top_k=8, output_dir=tmp_path / "live")])
    code, out, _ = run("teacher-cache", "--config", config, "--output", cache, "--top_k", 8)
    assert code == 0
    assert "train: 8 rows, of which 8 were asked now" in out
    assert "validation: 4 rows, of which 4 were asked now" in out
    assert re.search(r"12 rows, \d+ target tokens, \d+\.\d bytes a token, tail probability 0\.\d+", out)
    cached = distill(["--config", config, *flags(teacher_cache=cache, output_dir=tmp_path / "cached")])
    whole = distill(["--config", config, *flags(output_dir=tmp_path / "whole")])
    assert whole["eval_kd_loss"] != pytest.approx(live["eval_kd_loss"], rel=5e-2)
    # float16 on disk
    assert cached["eval_kd_loss"] == pytest.approx(live["eval_kd_loss"], rel=5e-3)
    assert cached["eval_loss"] == pytest.approx(live["eval_loss"], rel=5e-3)


def test_a_cache_asks_for_no_row_twice(run, recipe, tmp_path):
    command = ("teacher-cache", "--config", recipe(teacher_cache=str(tmp_path / "cache"), top_k=8))
    first = run(*command, "--max_train_samples", 5)[1]
    second, third = run(*command)[1], run(*command)[1]
    assert "train: 5 rows, of which 5 were asked now" in first
    assert "train: 8 rows, of which 3 were asked now" in second
    assert "train: 8 rows, of which 0 were asked now" in third
    assert third.splitlines()[-1] == second.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_file": "rows.txt"}, "rows.txt is of no kind that can be read"),
        ({"train_file": "nowhere.jsonl"}, "nowhere.jsonl does not exist"),
        ({"validation_split_percentage": 0}, "both sides need rows"),
        ({"max_eval_samples": 0}, "max_eval_samples is 0"),
        ({"dataset_name": "rows"}, "one of the two"),
        ({"source_column": "document"}, "document"),
        ({"teacher_name_or_path": None}, "there is no teacher"),
        ({"alpha": 2}, "alpha"),
        ({"temperatur": 2}, "temperatur"),
        ({"on_policy_fraction": 1.0, "teacher_cache": "cache"}, "on_policy_fraction"),
    ],
)
def test_mistakes_are_told_in_a_line(run, recipe, tmp_path, changes, message):
    code, _, error = run("distill", "--config", recipe(**changes), "--output_dir", tmp_path / "out")
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_refused(run, recipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    code, _, error = run("distill", "--config", recipe(), "--output_dir", tmp_path / "out")
    assert code == 2
    assert "already holds something" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_loss_that_is_not_finite_is_an_error(run, recipe, tmp_path):
    code, _, error = run("distill", "--config", recipe(learning_rate=1e30), "--output_dir", tmp_path / "out")
    assert code == 2
    assert "nan" in error.lower() or "inf" in error.lower()


def test_a_configuration_that_cannot_be_read_is_refused(run, tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("a: [1")
    assert "no YAML" in run("distill", "--config", tmp_path / "broken.yaml")[2]
    assert "nowhere.yaml" in run("distill", "--config", "nowhere.yaml")[2]
    with pytest.raises(SystemExit):
        main(["distill", "--config"])
    assert "expected the name of a file" in capsys.readouterr().err


def test_a_cache_needs_a_folder_and_a_teacher(run, recipe, tmp_path):
    assert "--output FOLDER" in run("teacher-cache", "--config", recipe())[2]
    file = recipe(teacher_name_or_path=None)
    assert "no teacher to ask" in run("teacher-cache", "--config", file, "--output", tmp_path / "cache")[2]
    file = recipe(on_policy_fraction=0.5)
    assert "on_policy_fraction" in run("teacher-cache", "--config", file, "--output", tmp_path / "cache")[2]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_rows_are_read_from_files_of_all_kinds(tmp_path, kind):
    file = tmp_path / f"rows.{kind}"
    dataset = Dataset.from_dict({"document": [f"text {i}" for i in range(40)], "target": ["answer"] * 40})
    {"csv": dataset.to_csv, "parquet": dataset.to_parquet}.get(kind, dataset.to_json)(file)
    arguments = RowArguments(train_file=str(file), source_column="document", max_train_samples=30)
    train, held_out = load_rows(arguments)
    assert held_out["source"][:] == ["text 0", "text 1"]
    assert train["source"][:] == [f"text {i}" for i in range(2, 32)]


def test_too_few_rows_or_several_kinds_of_files_are_refused(tmp_path):
    row = Dataset.from_dict({"source": ["a"], "target": ["b"]})
    row.to_json(tmp_path / "one.jsonl")
    row.to_csv(tmp_path / "one.csv")
    with pytest.raises(ValueError, match="none can be held out"):
        load_rows(RowArguments(train_file=[str(tmp_path / "one.jsonl")]))
    both = RowArguments(train_file=[str(tmp_path / "one.jsonl")], validation_file=[str(tmp_path / "one.csv")])
    with pytest.raises(ValueError, match="several kinds"):
        load_rows(both)
    with pytest.raises(ValueError, match="validation split of its own"):
        RowArguments(dataset_name="rows", validation_file=["one.jsonl"])


class TestImages:
    @pytest.fixture
    def image_file(self, tmp_path):
        """A JSON Lines file whose rows have paths of images, from its own folder."""
        folder = tmp_path / "data" / "pictures"
        folder.mkdir(parents=True)
        records = []
        for i, row in enumerate(image_rows(6)):
            names = [f"pictures/{i}_{j}.png" for j in range(len(row["images"]))]
            for image, name in zip(row["images"], names, strict=True):
                image.save(tmp_path / "data" / name)
            records.append({"pictures": names, "source": row["source"], "target": row["target"]})
        path = tmp_path / "data" / "train.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    def test_in_files_are_distilled_from(self, image_file, tmp_path):
        for name, (model, processor) in {"student": vision_student(), "teacher": image_teacher("llava")}.items():
            model.save_pretrained(tmp_path / name)
            processor.save_pretrained(tmp_path / name)
        files = {"train_file": image_file, "image_column": "pictures", "validation_split_percentage": 34}
        models = {"model_name_or_path": tmp_path / "student", "teacher_name_or_path": tmp_path / "teacher"}

        metrics = distill(flags(**models, output_dir=tmp_path / "out", **files, **QUIET))

        assert metrics["eval_kd_loss"] > 0
        saved = AutoProcessor.from_pretrained(tmp_path / "out")
        assert type(saved).__name__ == "EncDecSLMVisionProcessor"
        before = vision_student()[0].state_dict()
        after = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
        assert any("vision_tower" in name and not torch.equal(value, before[name]) for name, value in after.items())

    def test_are_looked_for_before_the_training(self, image_file, tmp_path):
        options = {"train_file": [image_file], "image_column": "pictures"}
        train, _ = load_rows(RowArguments(**options))
        assert train["images"][1] == [str(tmp_path / "data" / "pictures" / f"2_{j}.png") for j in range(2)]
        with pytest.raises(ValueError, match=r"2_0\.png of a row is not in .*image_folder"):
            load_rows(RowArguments(**options, image_folder=str(tmp_path)))
