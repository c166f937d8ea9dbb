"""A model card says what is known of a model, and no more: metadata that the Hub indexes, code that runs."""

import re
from dataclasses import replace

import jinja2
import jinja2.meta
import pytest
from card_tester import REPO_ID, front_matter, saved_model, saved_vision_model
from fresh_process import run_python
from huggingface_hub import ModelCard
from model_tester import ModelTester
from PIL import Image
from test_remote_code import HIDE_THE_PACKAGE
from transformers import LlamaConfig, T5Config

from encdec_slm.hub.card import TEMPLATE, card_for_folder, code_span, literal, python_string, render
from encdec_slm.hub.card_facts import (
    SEQ_TO_SEQ,
    CardFacts,
    Stack,
    facts_from_config,
    facts_from_folder,
)
from encdec_slm.hub.card_results import Evaluation, Speed, SpeedComparison, evaluations


HOSTILE = [
    "---",
    "x\n---\nlicense: gpl-3.0\n---\n# A heading",
    "{{ 7 * 7 }} {% include '/etc/passwd' %} {# c #}",
    "```\n```python\nimport os",
    "`` ` ```",
    "<script>alert(1)</script><!-- &lt; -->",
    "a | b | c \\| d",
    "[a](javascript:alert) ![b](http://127.0.0.1/x.png) $$x$$",
    "!!python/object/apply:os.system ['true']",
    "key: [value, {*anchor, &anchor",
    "\x85\u2028\u2029 \t x",
    '\'"""\'',
]


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("hub"), tiny_tokenizer)


def facts_with(text):
    """Facts that hold a text wherever somebody else may have written it."""
    return CardFacts(
        repo_id=REPO_ID,
        loader=SEQ_TO_SEQ,
        model_type=text,
        architecture=text,
        parameters=7,
        stacks=(Stack.from_config("encoder", {"num_hidden_layers": 2}),),
        tokenizer=text,
        has_code=True,
        adapter=text,
        base_model="user/base",
        license=text,
        language=(text,),
        tags=(text,),
        command=text,
        machine=text,
        example=text,
        results=evaluations(
            [
                {
                    "task": {"type": text, "name": text},
                    "dataset": {"type": text, "name": text, "split": text},
                    "metrics": [{"type": text, "value": 1.5, "name": text}],
                    "source": {"name": text, "machine": text},
                }
            ],
            origin="a test",
        ),
        efficiency=(
            SpeedComparison(
                title=text,
                command=text,
                machine=text,
                speeds=(Speed(name=text, parameters=7, first_token_ms=1.0, tokens_per_second=2.0),),
            ),
        ),
    )


def snippets(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def in_a_new_process(script, folder):
    """Runs Python in the folder that holds the repositories, as a reader would; returns what it prints."""
    done = run_python("-c", script, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def outline(text):
    """What gives a card its form: headings, fences, and the columns of the tables."""
    body = text.partition("\n---\n")[2]
    lines = [line for line in body.splitlines() if line.startswith(("#", "```", "|"))]
    return [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else line.split()[0] for line in lines]


def test_metadata_of_a_plain_folder_is_what_its_files_say(folder):
    assert front_matter(card_for_folder(folder, REPO_ID)) == {
        "library_name": "transformers",
        # the Hub has no `text2text-generation` in its list of tasks any more
        "pipeline_tag": "text-generation",
        "tags": ["encoder-decoder", "text2text-generation"],
    }


def test_what_is_not_known_is_not_said(folder):
    text = card_for_folder(folder, REPO_ID)
    for said in ("Not stated.", "not recorded", "None are recorded", "Not measured."):
        assert said in text
    for unsaid in ("## Licence", "Trained by", "Measured by", "![", "None |", "huggingface.co", "nan", "undefined"):
        assert unsaid not in text


def test_every_fact_is_said(folder):
    facts = replace(
        facts_with("a word"),
        **{name: f"[the {name}]" for name in ("summary", "intended_use", "recipe", "attribution", "command", "plot")},
        limits=("[one limit]", "[another]"),
        datasets=("user/data",),
    )
    text = str(render(facts))
    said = ("summary", "intended_use", "recipe", "attribution", "command", "plot")
    for part in (*(f"[the {name}]" for name in said), "- [one limit]\n- [another]\n", "datasets/user/data"):
        assert part in text


def test_template_asks_for_nothing_that_it_is_not_given(folder):
    asked = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(TEMPLATE.read_text(encoding="utf-8")))
    given = {"card_data", "facts", "our_model_types", "literal", "code_span", "measured", "python_string"}
    assert asked == given
    fields = set(re.findall(r"\bfacts\.(\w+)", TEMPLATE.read_text(encoding="utf-8")))
    assert fields <= {*CardFacts.__dataclass_fields__, "name"}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    card = str(render(facts_with(text)))
    data = front_matter(card)
    assert data["license"] == data["language"][0] == data["tags"][-1] == data["metrics"][0] == text
    assert data["model-index"][0]["results"][0]["dataset"] == {"name": text, "type": text, "split": text}
    assert ModelCard(card).data.to_dict() == data
    assert outline(card) == outline(str(render(facts_with("a word"))))
    assert "49" not in card


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_is_written(text):
    line = " ".join(text.split())
    assert re.sub(r"\\([^\w\s])", r"\1", literal(text)) == line
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|#$&~!]", literal(text))
    span = re.fullmatch(r"(`+)( ?)(.*)\2\1", code_span(text))
    assert span[3] == line
    assert span[1] not in re.findall("`+", line)
    assert eval(python_string(text)) == text
    assert "`" not in python_string(text)


@pytest.mark.parametrize("name", ['a/b"); import os; ("', "a/b\nc", "../x", "a b", ""])
def test_what_is_no_id_of_a_repository_is_refused(folder, name):
    with pytest.raises(ValueError, match="Repo id"):
        card_for_folder(folder, name)
    with pytest.raises(ValueError, match="Repo id"):
        CardFacts(repo_id=REPO_ID, loader=SEQ_TO_SEQ, datasets=(name,))


@pytest.mark.parametrize("config", [LlamaConfig(), T5Config()], ids=lambda config: config.model_type)
def test_a_model_of_transformers_needs_no_package_of_ours(config):
    kind = {"llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration"}[config.model_type]
    facts = facts_from_config({**config.to_dict(), "architectures": [kind]}, repo_id=REPO_ID, tokenizer="BPE")
    text = str(render(facts))
    assert "encdec_slm" not in text
    assert "trust_remote_code" not in text
    (snippet,) = snippets(text)
    assert {"llama": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM"}[config.model_type] in snippet


def test_snippet_with_the_package_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent.parent)
    with_package, _ = snippets(card_for_folder(folder, REPO_ID))
    names = {}
    exec(compile(with_package, "card", "exec"), names)
    assert type(names["model"]).__module__ == "encdec_slm.models.modeling_encdec_slm"
    assert "generated_text" in capsys.readouterr().out


def test_snippet_of_an_adapter_runs(folder, monkeypatch):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["qkv_proj"], r=2)
    adapter = folder.parent / "adapter"
    model = get_peft_model(ModelTester().model(), config)
    model.save_pretrained(adapter)
    monkeypatch.chdir(folder.parent.parent)
    facts = facts_from_folder(adapter, repo_id="user/adapter", base_model=REPO_ID)
    assert facts.parameters == model.get_nb_trainable_parameters()[0]
    (snippet,) = snippets(str(render(facts)))
    names = {}
    exec(compile(snippet, "card", "exec"), names)
    assert type(names["model"]).__name__ == "PeftModelForSeq2SeqLM"


def test_snippets_without_the_package_run_there(folder):
    """In one process for both: the whole model, and its encoder alone."""
    encoder = folder.parent / "encoder"
    ModelTester.encoder_class(ModelTester().config()).save_pretrained(encoder)
    _, whole = snippets(card_for_folder(folder, REPO_ID))
    _, alone = snippets(card_for_folder(encoder, "user/encoder"))
    script = f"{HIDE_THE_PACKAGE}\n{whole}\nprint(type(model).__module__)\n{alone}\nprint(type(model).__name__)"
    printed = in_a_new_process(script, folder.parent.parent)
    assert "generated_text" in printed
    assert "transformers_modules" in printed
    assert printed.endswith("EncDecSLMEncoder\n")


@pytest.mark.parametrize(
    "is_hidden", [pytest.param(False, marks=pytest.mark.slow), True], ids=["with the package", "without"]
)
def test_snippet_of_a_model_that_sees_runs(is_hidden, tiny_tokenizer, tmp_path):
    saved_vision_model(tmp_path, tiny_tokenizer)
    Image.new("RGB", (30, 41), "red").save(tmp_path / "image.png")
    snippet = snippets(card_for_folder(tmp_path / REPO_ID, REPO_ID))[is_hidden]
    done = in_a_new_process(
        (HIDE_THE_PACKAGE if is_hidden else "") + snippet + "print(type(model).__module__)", tmp_path
    )
    module = "transformers_modules" if is_hidden else "encdec_slm.models"
    assert done.splitlines()[-1].startswith(module)


def test_another_template_is_used(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("---\n{{ card_data }}\n---\n{{ facts.name }} by {{ code_span(facts.results[0].command) }}")
    evaluation = Evaluation(command="x", machine="y", results=())
    card = render(CardFacts(repo_id=REPO_ID, loader=SEQ_TO_SEQ, results=(evaluation,)), path)
    assert card.text == "a-model.v1 by `x`"
