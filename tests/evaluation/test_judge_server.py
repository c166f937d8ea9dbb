"""The judge behind `transformers serve`: a server process, a model with a chat template, a score."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from encdec_slm.cli import main


VERDICT = json.dumps({"TP": ["it is a word"], "FP": ["it is long", "it is short"], "FN": []})
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", VERDICT]


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    """A chat model that gives one verdict on everything, and ends."""
    folder = tmp_path_factory.mktemp("judge")
    words = Tokenizer(models.WordLevel({token: place for place, token in enumerate(TOKENS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(**sizes, vocab_size=5, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    verdict, end = TOKENS.index(VERDICT), TOKENS.index("</s>")
    with torch.no_grad():
        # its layer adds nothing: what comes next depends on the last token alone
        for parameter in (model.model.layers[0].self_attn.o_proj.weight, model.model.layers[0].mlp.down_proj.weight):
            parameter.zero_()
        tokens, heads = model.model.embed_tokens.weight.zero_(), model.lm_head.weight.zero_()
        tokens[:, 0], tokens[verdict, 0], tokens[verdict, 1] = 1, 0, 1
        heads[verdict, 0], heads[end, 1] = 9, 9
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(judge_folder):
    """The address of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ["serve", str(judge_folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", *serve]
    server = subprocess.Popen(command)
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                    break
            except urllib.error.URLError:
                assert server.poll() is None, "the server has ended"
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_model_that_transformers_serves_judges_answers(endpoint, judge_folder, rows_file, tmp_path, capsys):
    given = ["evaluate", "copy", "--task", "text", "--data", rows_file, "--output", str(tmp_path)]
    assert main([*given, "--judge-url", endpoint, "--judge-model", str(judge_folder)]) == 0
    # one statement is right and two are not: F1 = 1 / (1 + 2 / 2)
    assert "| answer correctness | 50.00 | 50.00 to 50.00 |" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert {record["FP"][1] for record in records} == {"it is short"}
    (results,) = json.loads((tmp_path / "results.json").read_text())
    assert "answer_correctness" in {metric["type"] for metric in results["metrics"]}
