"""The comparison from end to end on a tiny teacher: each part once, and a report of all."""

import json
from pathlib import Path

import distillation_results as comparison
import distillation_results_report as report
import pytest
from datasets import Dataset
from distillation_results import main
from readme_blocks import markers
from scoring import bleu
from start_students import Student
from tasks import Task


PAIRS = {"source": ["abc", "bca", "cab"] * 8, "target": ["cba", "acb", "bac"] * 8}
SIZES = {
    "teacher_steps": 2,
    "train_rows": 12,
    "score_rows": 6,
    "skip_rows": 2,
    "max_steps": 3,
    "seeds": 1,
    "threads": 1,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "source_template": "{source}.",
}


@pytest.fixture
def run(monkeypatch, source, tmp_path):
    """Runs the command with one student; returns its records."""
    student = Student(
        name="started", label="started", layers="0-2/0,3", learning_rate=1e-3, frozen=(r"^model\.encoder",)
    )
    rows = Dataset.from_dict(PAIRS)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(comparison, "STUDENTS", {"started": student})
    monkeypatch.setattr(comparison, "TOP_K", 8)
    monkeypatch.setattr(comparison, "load_task", lambda *_: Task(rows, rows, "BLEU", bleu))
    folders = {"source": source, "output_dir": tmp_path / "out", "results": tmp_path / "results"}

    def run(*more, **changes):
        options = {"task": "codexglue", "students": "started", **folders, **SIZES, **changes}
        main([text for name, value in options.items() for text in (f"--{name}", str(value))] + list(more))
        return json.loads((tmp_path / "results/distillation_codexglue.json").read_text())

    return run


def test_each_part_is_done_once_and_reported(run, tmp_path, capsys):
    records = {record["name"]: record for record in run()}
    assert set(records) == {"teacher", "started-labels-0", "started-teacher-0"}
    assert all(record["loss"] > 0 and 0 <= record["score"] <= 100 for record in records.values())
    said = json.loads((tmp_path / "out/codexglue/teacher/training.json").read_text())
    assert said == {"label": records["teacher"]["label"], "parameters": records["teacher"]["parameters"], "pairs": 16}
    # one start and one order of rows, but not one objective
    assert records["started-labels-0"]["loss"] != records["started-teacher-0"]["loss"]
    capsys.readouterr()
    written = {path: path.stat().st_mtime_ns for path in Path(tmp_path / "out").rglob("*.*") if path.is_file()}
    again = {record["name"]: record for record in run(seeds=2)}
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    assert again.items() > records.items()
    assert len(again) == 5
    assert "started-teacher-0: done already" in capsys.readouterr().out
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(markers("distillation")))
    report.main(["--results", str(tmp_path / "results"), "--readme", str(readme)])
    text = readme.read_text()
    assert f"| 2 | {records['teacher']['parameters'] / 1e6:.1f}M | 1 | {records['teacher']['loss']:.3f} |" in text
    assert "| started | labels and teacher | 3 |" in text
    by_seed = [again[f"started-teacher-{seed}"]["loss"] - again[f"started-labels-{seed}"]["loss"] for seed in range(2)]
    assert f"seed by seed, started: loss {by_seed[0]:+.3f}, {by_seed[1]:+.3f}, BLEU" in text
    assert (tmp_path / "results" / report.PLOT).read_bytes().startswith(b"\x89PNG")


def test_results_of_other_settings_are_not_mixed(run):
    run("--parts", "teacher")
    with pytest.raises(ValueError, match="was made with max_steps 3, not 4"):
        run(max_steps=4)


def test_students_need_the_teachers_part_first(run):
    with pytest.raises(ValueError, match="run the part `teacher` first"):
        run("--parts", "students")


def test_unknown_names_are_refused(run):
    with pytest.raises(ValueError, match="there is no 'nobody'"):
        run(students="nobody")
    with pytest.raises(ValueError, match="there is no 'everything'"):
        run("--parts", "everything")


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no results"):
        report.read(tmp_path)
