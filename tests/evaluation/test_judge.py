"""A judge is asked over a real connection: again where it is down or busy, and never twice for what it has said."""

import json
import threading
import time
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import encdec_slm.evaluation.judge as judge_module
from encdec_slm.cli import main
from encdec_slm.evaluation.evaluate import evaluate
from encdec_slm.evaluation.judge import Judge


KEY = "secret-of-the-test"
QUICK = {"retries": 3, "timeout": 2.0, "workers": 1}


class Endpoint:
    """An OpenAI-compatible server on a free port; a reply is what `say` returns for a request, or a status.

    Attributes:
        requests: All that were received: path, headers and body.
    """

    def __init__(self, say):
        self.requests, self.say = [], say
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                reply = endpoint.say(self.path, body)
                status, content = (
                    (reply, {"error": {"message": f"no, {KEY}"}}) if isinstance(reply, int) else (200, reply)
                )
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def chat(content):
    message = {"role": "assistant", "content": content}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [
        {"index": 0, "finish_reason": "stop", "message": message}
    ]}  # fmt: skip


def embeddings(*vectors):
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return {"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def statements(right, wrong, missing):
    kinds = zip(("TP", "FP", "FN"), (right, wrong, missing), strict=True)
    return json.dumps({kind: ["it is so"] * number for kind, number in kinds})


@pytest.fixture
def judged(rows_file, tmp_path, monkeypatch):
    """Returns a function that evaluates the copies of three rows with a judge."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(endpoint, output=tmp_path, **options):
        judge = Judge(url=endpoint.url, model="judge", **{**QUICK, **options})
        return evaluate("copy", "text", output=output, data=[rows_file], limit=3, judge=judge)

    return run


def judgements(folder):
    records = map(json.loads, (folder / "judgements.jsonl").read_text().splitlines())
    return {record["number"]: record for record in records}


def test_the_score_is_f1_of_statements_and_a_quarter_similarity(judged, tmp_path):
    def say(path, body):
        if path.endswith("/embeddings"):
            return embeddings([1.0, 0.0], [0.6, 0.8])
        return chat(f"Here it is:\n```json\n{statements(2, 1, 1)}\n```")

    with Endpoint(say) as endpoint:
        alone = judged(endpoint, tmp_path / "facts")
        both = judged(endpoint, tmp_path / "both", embedding_model="e")
    assert alone.metrics["answer_correctness"] == pytest.approx(100 * 2 / 3)
    assert both.metrics["answer_correctness"] == pytest.approx(100 * (0.75 * 2 / 3 + 0.25 * 0.6))
    assert judgements(tmp_path / "both")[0]["similarity"] == pytest.approx(0.6)
    _, headers, body = endpoint.requests[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body["model"] == "judge"
    assert "Question: cat\n\nAnswer: cat\n\nRight answer: tac" in body["messages"][1]["content"]


def test_a_busy_endpoint_is_asked_again_and_one_that_stays_down_is_gone_on_with(judged, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    replies = [503, 429, chat(statements(1, 0, 0)), 500, *[503] * 10]
    with Endpoint(lambda path, body: replies.pop(0)) as endpoint:
        with pytest.raises(
            ValueError, match=r"gives an error .*1 of 3 answers are judged and kept: the same command goes on"
        ) as error:
            judged(endpoint)
        assert KEY not in str(error.value)
        # retries of the second answer: as many as were asked for
        assert len(endpoint.requests) == 3 + 1 + QUICK["retries"]
        assert judgements(tmp_path)[0]["score"] == 1
        replies[:] = [chat(statements(0, 1, 1)), chat(statements(1, 1, 1))]
        found = judged(endpoint)
    assert not replies
    assert found.metrics["answer_correctness"] == pytest.approx(100 * (1 + 0 + 0.5) / 3)
    assert found.answered == 0
    assert not any(KEY in file.read_text() for file in tmp_path.iterdir())


def test_an_endpoint_that_nobody_serves_or_that_is_too_slow_is_named(judged, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with Endpoint(None) as endpoint:
        pass
    with pytest.raises(ValueError, match=rf"judge at {endpoint.url} cannot be reached.* after 1 retries.*0 of 3"):
        judged(endpoint, retries=1)
    assert (tmp_path / "predictions.jsonl").read_text().count("\n") == 3
    answered = threading.Event()
    with Endpoint(lambda path, body: answered.wait(20) and 503) as slow:
        with pytest.raises(ValueError, match=r"did not answer within 0.2 seconds"):
            judged(slow, tmp_path / "slow", retries=0, timeout=0.2)
        answered.set()


@pytest.fixture
def last_answer_first(monkeypatch):
    """Judgements are looked at when all have been made, in reverse."""

    def seen(futures):
        wait(futures)
        return reversed(futures)

    monkeypatch.setattr(judge_module, "as_completed", seen)


@pytest.mark.usefixtures("last_answer_first")
def test_why_the_judge_is_not_asked_any_more_is_said_whichever_answer_is_seen_first(judged):
    with Endpoint(None) as endpoint:
        pass
    with pytest.raises(ValueError, match=rf"judge at {endpoint.url} cannot be reached.* after 0 retries.*0 of 3"):
        judged(endpoint, retries=0)


@pytest.mark.usefixtures("last_answer_first")
def test_what_was_judged_before_a_failure_is_kept_even_if_the_failure_is_seen_first(judged, tmp_path):
    replies = [chat(statements(1, 0, 0)), 400]
    failure = pytest.raises(ValueError, match=r"gives an error .*1 of 3 answers are judged and kept")
    with Endpoint(lambda path, body: replies.pop(0)) as endpoint, failure:
        judged(endpoint)
    assert judgements(tmp_path)[0]["score"] == 1


def test_what_cannot_be_read_is_asked_for_once_more_and_counted(judged, tmp_path):
    replies = [chat("yes"), chat(statements(1, 0, 0)), chat("no"), chat("{}"), chat(statements(0, 0, 2))]
    with Endpoint(lambda path, body: replies.pop(0)) as endpoint:
        found = judged(endpoint)
    assert (found.unjudged, found.metrics["answer_correctness"]) == (1, 50)
    assert judgements(tmp_path)[1] == {"number": 1, "score": None, "reply": "{}"}
    assert [len(body["messages"]) for _, _, body in endpoint.requests] == [2, 4, 2, 4, 2]
    unread = pytest.raises(ValueError, match=r"said of no answer what can be read.*'I am a parrot': take a larger")
    with Endpoint(lambda path, body: chat("I am a parrot")) as parrot, unread:
        judged(parrot, tmp_path / "parrot")


def test_judgements_of_one_judge_are_not_mixed_with_those_of_another(judged):
    with Endpoint(lambda path, body: chat(statements(1, 0, 0))) as endpoint:
        judged(endpoint)
        with pytest.raises(ValueError, match=r"embedding_model was null and is \"e\""):
            judged(endpoint, embedding_model="e")


def test_the_command_needs_both_url_and_name(rows_file, tmp_path, capsys):
    given = ["evaluate", "copy", "--task", "text", "--data", rows_file, "--output", str(tmp_path)]
    assert main([*given, "--judge-url", "http://127.0.0.1:1/v1"]) == 2
    assert "both --judge-url and --judge-model" in capsys.readouterr().err
