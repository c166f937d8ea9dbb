"""The questions of the vision demo become files, from which the recipe for them distils."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from image_tester import image_teacher, picture, vision_student
from picture_files import write_files
from PIL import Image as Pillow
from vision_rows import Splits

from encdec_slm.distillation.__main__ import main as distill


RECIPE = Path(__file__).parents[2] / "examples/configs/distill_pictures_smolvlm.yaml"
FEATURES = Features({"image": Image(), "source": Value("string"), "target": Value("string")})


@pytest.fixture
def splits():
    """Two questions about each of three pictures, and one about another."""
    shown = [picture(8, 8, seed=number) for number in range(3)]
    rows = {"image": [*shown, *shown], "source": [*"abcdef"], "target": ["b c", "a", "c", "d b", "a", "b"]}
    held_out = {"image": [picture(9, 20)], "source": ["a b"], "target": ["c"]}
    train, test = (Dataset.from_dict(content, features=FEATURES) for content in (rows, held_out))
    return Splits(train=train, test=test, test_new_words=test)


def test_each_picture_is_written_once_and_found_by_its_rows(splits, tmp_path):
    for _ in range(2):
        files = write_files(splits, tmp_path)
    assert len([*(tmp_path / "pictures").iterdir()]) == 4
    for name, rows in (("train", splits.train), ("validation", splits.test)):
        lines = [json.loads(line) for line in files[name].read_text().splitlines()]
        for line, row in zip(lines, rows, strict=True):
            assert (line["source"], line["target"]) == (row["source"], row["target"])
            (path,) = line["images"]
            assert Pillow.open(tmp_path / path).tobytes() == row["image"].tobytes()


def test_the_recipe_distils_from_a_teacher_that_sees(splits, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, (model, processor) in {"student": vision_student(), "teacher": image_teacher("smolvlm")}.items():
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    files = write_files(splits, tmp_path / "files")
    changes = {
        "model_name_or_path": tmp_path / "student",
        "teacher_name_or_path": tmp_path / "teacher",
        "train_file": files["train"],
        "validation_file": files["validation"],
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "disable_tqdm": True,
    }
    metrics = distill(["--config", str(RECIPE), *(str(part) for item in changes.items() for part in _flag(*item))])
    assert metrics["eval_kd_loss"] > 0
    assert metrics["eval_ce_loss"] > 0
    assert (tmp_path / "out/processor_config.json").is_file()


def _flag(name, value):
    return f"--{name}", value
