"""EleutherAI's lm-evaluation-harness scores a checkpoint folder of ours by its own command and classes."""

import json
import subprocess
import sys

import pytest
import torch
from model_tester import ModelTester


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{source}}}}"
{rest}
"""
GENERATION = """
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["</s>"], do_sample: false, max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, regexes_to_ignore: [" "]}]
"""
CHOICE = """
doc_to_choice: ["cat", "a dog"]
doc_to_target: label
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SOURCES = ("cat", "a dog", "the end of it", "x", "yes")
ARGUMENTS = "pretrained={},trust_remote_code=True,backend=seq2seq,dtype=float32"


@pytest.fixture(scope="module")
def tasks_folder(model_folder, tiny_tokenizer, write_rows, tmp_path_factory):
    """Two tasks: to say what the model says to three of five, and to prefer one of two answers."""
    model = ModelTester().model()
    rows = []
    for number, source in enumerate(SOURCES):
        ids = torch.tensor([tiny_tokenizer(source)["input_ids"]])
        # the harness lets an answer grow with the input, as if it had to hold the input too: in a batch with the
        # longest of the batch, so that the tests ask one at a time
        tokens = model.generate(input_ids=ids, max_length=ids.shape[1] + 6)
        said = tiny_tokenizer.decode(tokens[0], skip_special_tokens=True)
        losses = []
        for choice in ("cat", "a dog"):
            labels = torch.tensor([tiny_tokenizer(choice)["input_ids"]])
            losses.append(model(input_ids=ids, labels=labels).loss.item() * labels.shape[1])
        preferred = losses.index(min(losses))
        label = preferred if number < 4 else 1 - preferred
        rows.append({"source": source, "answer": said if number < 3 else "no", "target": "x", "label": label})
    folder = tmp_path_factory.mktemp("tasks")
    file = write_rows(rows)
    for name, kind, rest in (("spell", "generate_until", GENERATION), ("prefer", "multiple_choice", CHOICE)):
        text = TASK.format(name=name, file=file, kind=kind, rest=rest)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_seq2seq_backend_generates_and_compares_likelihoods(tasks_folder, model_folder):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=ARGUMENTS.format(model_folder),
        tasks=["spell", "prefer"],
        task_manager=TaskManager(include_path=str(tasks_folder), include_defaults=False),
        batch_size=1,
        device="cpu",
        bootstrap_iters=0,
    )["results"]

    assert found["spell"]["exact_match,none"] == pytest.approx(3 / 5)
    assert found["prefer"]["acc,none"] == pytest.approx(4 / 5)


@pytest.mark.slow
def test_the_command_of_the_harness_uses_the_code_in_the_folder(tasks_folder, model_folder, tmp_path):
    command = [
        "--model",
        "hf",
        "--model_args",
        ARGUMENTS.format(model_folder),
        "--tasks",
        "spell",
        "--batch_size",
        "1",
    ]
    places = ["--include_path", str(tasks_folder), "--output_path", str(tmp_path), "--log_samples"]
    subprocess.run([sys.executable, "-m", "lm_eval", *command, *places], check=True, cwd=tmp_path)
    (results,) = tmp_path.rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["spell"]
    assert found["exact_match,none"] == pytest.approx(3 / 5)
