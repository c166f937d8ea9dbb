"""Files that cannot be read are named, with what is wrong in them, and nothing is written."""

import pytest
from model_tester import ModelTester

from encdec_slm.cli import main


ROW = '{"source": "a", "target": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", "", "rows.jsonl is empty: give one with rows"),
        ("rows.jsonl", "\n", "rows.jsonl cannot be read as json"),
        ("rows.jsonl", ROW + '{"source": "a", "target": \n', "rows.jsonl cannot be read as json: JSON parse error"),
        ("rows.parquet", ROW, "rows.parquet cannot be read as parquet: Parquet magic bytes not found"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, message, tmp_path, capsys):
    file, output = tmp_path / name, tmp_path / "output"
    file.write_text(content)
    assert main(["evaluate", "copy", "--task", "text", "--data", str(file), "--output", str(output)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not output.exists()


@pytest.mark.parametrize("command", ["adapt", "distill"])
def test_it_is_named_by_the_trainings_too(command, tiny_tokenizer, tmp_path, capsys):
    file, output, model_folder = tmp_path / "rows.jsonl", tmp_path / "output", tmp_path / "model"
    ModelTester().model().save_pretrained(model_folder)
    tiny_tokenizer.save_pretrained(model_folder)
    file.write_text(ROW + "{")
    options = {"model_name_or_path": model_folder, "train_file": file, "output_dir": output}
    options |= {"teacher_name_or_path": model_folder} if command == "distill" else {}
    assert main([command, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]) == 2
    assert "rows.jsonl cannot be read as json: JSON parse error" in capsys.readouterr().err.splitlines()[-1]
    assert not output.exists()
