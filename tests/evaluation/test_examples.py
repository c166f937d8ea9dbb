"""Rows are read as their data sets have them, or with source and target; what cannot be asked or scored is refused."""

from types import SimpleNamespace

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from encdec_slm.evaluation import model_loading
from encdec_slm.evaluation.evaluate import evaluate, score_answers
from encdec_slm.evaluation.examples import read_examples
from encdec_slm.evaluation.metrics import METRICS
from encdec_slm.evaluation.model_loading import load_respondent, respondent_of, weight_bytes
from encdec_slm.evaluation.tasks import TASKS


# a row of each data set, with the columns that it has on the Hub
ROWS = {
    "squad_v2": {
        "id": "1",
        "title": "t",
        "question": "who?",
        "context": "Ann.",
        "answers": {"text": ["Ann", "Ann."], "answer_start": [0, 0]},
    },
    "xsum": {"document": "long", "summary": "short", "id": "1"},
    "codexglue_java_cs": {"id": 1, "java": "int a;", "cs": "int a;"},
    "codexglue_code_to_text": {
        "code": "def f(): 1",
        "code_tokens": ["def", "f"],
        "docstring": "One.",
        "docstring_tokens": ["One", "."],
    },
    "ielts": {"prompt": "Discuss.", "essay": "I think so.", "evaluation": "good", "band": "7"},
    "vqav2": {
        "question": "what?",
        "answers": [{"answer": "cat", "answer_id": 1}, {"answer": "a cat", "answer_id": 2}],
        "image": "x.png",
    },
    "textvqa": {"question": "what?", "answers": ["cat", "a cat"], "image": "x.png"},
    "chartqa": {"query": "what?", "label": ["3"], "image": "x.png", "human_or_machine": 0},
}
IMAGE_PROMPT = "Answer the following question based only on the context.\n###Question: \nwhat?\n###Context: {image}"
EXPECTED = {
    "squad_v2": (
        "Answer the following question based only on the context.\n###Question\nwho?\n###Context\nAnn.\n###Answer\n",
        ("Ann", "Ann."),
    ),
    "xsum": ("long", ("short",)),
    "codexglue_java_cs": ("int a;", ("int a;",)),
    "codexglue_code_to_text": ("def f", ("One .",)),
    "ielts": ("Discuss.", ("I think so.",)),
    "vqav2": (IMAGE_PROMPT, ("cat", "a cat")),
    "textvqa": (IMAGE_PROMPT, ("cat", "a cat")),
    "chartqa": (IMAGE_PROMPT, ("3",)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_of_each_data_set_are_asked_and_answered_as_its_record_says(name, write_rows):
    (example,) = read_examples(TASKS[name], files=[write_rows([ROWS[name]])]).examples
    assert (example.prompt, example.references) == EXPECTED[name]
    assert TASKS[name].dataset
    assert set(TASKS[name].metrics) <= METRICS.keys()


def test_every_task_of_the_paper_has_a_record():
    assert EXPECTED.keys() == {name for name, task in TASKS.items() if task.dataset}


@pytest.mark.parametrize("name", ["xsum", "squad_v2", "text"])
def test_rows_with_source_and_target_are_asked_as_they_are(name, write_rows):
    (example,) = read_examples(TASKS[name], files=[write_rows([{"source": "a {b}", "target": "c"}])]).examples
    assert (example.prompt, example.references) == ("a {b}", ("c",))


def test_another_prompt_is_filled_with_the_columns_that_there_are(write_rows):
    for columns, prompt in (
        ({"document": "a", "summary": "c"}, "In short: {document}"),
        ({"source": "a", "target": "c"}, "In short: {source}"),
    ):
        (example,) = read_examples(TASKS["xsum"], files=[write_rows([columns])], prompt=prompt).examples
        assert (example.prompt, example.copied, example.references) == ("In short: a", "a", ("c",))


def test_lines_of_two_files_belong_together(tmp_path):
    (tmp_path / "valid.java").write_text("int a;\n x\u2028x \n", encoding="utf-8")
    (tmp_path / "valid.cs").write_text("int b;\ny\n", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("valid.java", "valid.cs")]
    examples = read_examples(TASKS["codexglue_java_cs"], files=files).examples
    assert [(example.prompt, example.references) for example in examples] == [
        ("int a;", ("int b;",)),
        ("x\u2028x", ("y",)),
    ]
    (tmp_path / "valid.cs").write_text("int b;\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"valid.java has 2 lines, but .*valid.cs has 1"):
        read_examples(TASKS["codexglue_java_cs"], files=files)
    with pytest.raises(ValueError, match=r"SQuAD 2\.0 needs more than a text and its answer"):
        read_examples(TASKS["squad_v2"], files=files)


def test_a_parquet_file_holds_its_images(tmp_path):
    pictures = [Pillow.new("L", (3, 2), shade) for shade in (0, 200)]
    columns = {"query": ["a", "b"], "label": [["1"], ["2"]], "image": pictures}
    features = Features({"query": Value("string"), "label": [Value("string")], "image": Image()})
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "rows.parquet")
    examples = read_examples(TASKS["chartqa"], files=[str(tmp_path / "rows.parquet")])
    ((image),) = examples.images(examples.examples[1])
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (200, 200, 200))


def test_no_answer_is_one_text_whatever_the_metric_calls_it(write_rows):
    row = ROWS["squad_v2"]
    rows = [row, *[{**row, "answers": {"text": [], "answer_start": []}}] * 3]
    examples = read_examples(TASKS["squad_v2"], files=[write_rows(rows)]).examples
    assert examples[1].references == ("unanswerable",)
    said = ("ann", "Unanswerable.", "", "Ann")
    records = {number: {"prediction": text} for number, text in enumerate(said)}

    answers = SimpleNamespace(records=records)
    scores = {score.name: score.value for score in score_answers(TASKS["squad_v2"], examples, answers)}
    assert scores["exact_match"] == 75
    assert scores["no_answer_exact_match"] == pytest.approx(100 * 2 / 3)
    assert scores["rougeL"] == 75


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text": "a", "summary": "b"}],
            r"document, summary, or source .* rows have text, summary.*\(document missing",
        ),
        ([{"document": "a", "summary": "b"}, {"document": "c", "summary": " "}], r"1 of 2 rows .* summary \(rows 1,"),
        ([{"document": "a", "summary": None}], "1 of 1 rows have an empty reference"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_by_name(rows, message, write_rows):
    with pytest.raises(ValueError, match=message):
        read_examples(TASKS["xsum"], files=[write_rows(rows)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "squad"}, "no task 'squad': take one of squad_v2, xsum"),
        ({"metrics": ["rouge", "meteor"]}, "no metric meteor: take some of bleu"),
        ({"data": ["nothing.jsonl"]}, "nothing.jsonl does not exist"),
        ({"data": None}, "no data set of its own: give files with --data"),
        ({"prompt": "{question}"}, "needs the columns question, target"),
        ({"limit": 0}, "no rows"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(changes, message, rows_file, tmp_path):
    given = {"task": "text", "data": [rows_file], "output": tmp_path / "out", **changes}
    with pytest.raises(ValueError, match=message):
        evaluate("copy", **given)
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_the_task_is_refused(model_folder, tiny_tokenizer):
    with pytest.raises(ValueError, match=r"template 'say it' has no \{source\}"):
        respondent_of(object(), tiny_tokenizer, TASKS["text"], template="say it")
    with pytest.raises(ValueError, match="VQAv2 has images, but the model has a tokenizer alone"):
        respondent_of(object(), tiny_tokenizer, TASKS["vqav2"])
    with pytest.raises(
        ValueError, match=r"VQAv2 needs a model of AutoModelForImageTextToText, but .* EncDecSLMConfig"
    ):
        load_respondent(str(model_folder), TASKS["vqav2"])


def test_weights_that_do_not_fit_into_memory_are_not_read(model_folder, monkeypatch):
    from safetensors import safe_open

    with safe_open(model_folder / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert weight_bytes(str(model_folder)) == weight_bytes(str(model_folder), "float32") == stored
    assert weight_bytes(str(model_folder), "bfloat16") == stored // 2
    monkeypatch.setattr(model_loading, "free_bytes", lambda device: stored - 1)
    monkeypatch.setattr(model_loading, "GIB", 1024)
    with pytest.raises(ValueError, match=r"take \d+.\d GiB in auto precision, but only \d+.\d GiB of memory are free"):
        load_respondent(str(model_folder), TASKS["text"])
    load_respondent(str(model_folder), TASKS["text"], dtype="bfloat16")


def test_a_configuration_alone_says_how_large_a_model_is(tiny_config, tmp_path, model_folder):
    tiny_config.save_pretrained(tmp_path)
    assert weight_bytes(str(tmp_path), config=tiny_config) == weight_bytes(str(model_folder))
    assert weight_bytes(str(tmp_path)) is None
