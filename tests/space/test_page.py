"""The page of the Space in a real browser, served by the command that serves it: `make test-space`.

Needs chromium and chromedriver (Debian: chromium, chromium-driver). What was seen is left in .cache/space/seen.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from model_tester import ModelTester
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM, set_seed


# they are in an environment of their own, since Gradio needs another Pillow
pytest.importorskip("gradio", reason="make test-space runs these tests where Gradio is")
pytest.importorskip("selenium", reason="make test-space runs these tests where Selenium is")

from answering import Turns
from app import build_page, load_tabs, parse
from image_text_tester import save_decoder_only, save_encoder_decoder
from respondents import Question, load_image_text_model, load_text_model
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait


ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / ".cache/space/seen"
# long enough to be seen growing
NEW_TOKENS = 300
POSITIONS = 1_024
PEER_TEMPLATE = "{source}<s>"
ASK = "What the models read"
# what a page shows, whenever it has changed: the answers and the clocks of the open tab
WATCH = """
window.seen = [];
const look = () => {
  const visible = element => element.offsetParent !== null;
  const texts = selector => [...document.querySelectorAll(selector)].filter(visible);
  const state = JSON.stringify({
    answers: texts("textarea[disabled]").map(area => area.value),
    clocks: texts(".clocks").map(clock => [...clock.querySelectorAll("b")].map(reading => reading.textContent)),
    complete: texts(".clocks").map(clock => clock.classList.contains("complete")),
  });
  if (state !== window.seen.at(-1)) window.seen.push(state);
};
window.watching = setInterval(look, 5);
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_tokenizer):
    """Random models with answers that do not end by themselves."""
    root = tmp_path_factory.mktemp("models")
    shape = {"max_position_embeddings": POSITIONS}
    ModelTester(both=shape).model(eos_token_id=None).save_pretrained(root / "model")
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, initializer_range=0.5, eos_token_id=None, pad_token_id=0, **shape,
    )  # fmt: skip
    set_seed(0)
    LlamaForCausalLM(config).save_pretrained(root / "peer")
    for name in ("model", "peer"):
        tiny_tokenizer.save_pretrained(root / name)
    save_encoder_decoder(root / "vision_model", tiny_tokenizer)
    save_decoder_only(root / "vision_peer", tiny_tokenizer)
    return root


@pytest.fixture(scope="module")
def url(folders):
    """Where the page is served, by the variable that a Space would use."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (
        f"--model model --peer peer --peer-template '{PEER_TEMPLATE}' --vision-model vision_model "
        f"--vision-peer vision_peer --examples zyzzyva 'a gnat' "
        f"--max-new-tokens {NEW_TOKENS} --port {port}"
    )
    environment = {**os.environ, "SPACE_ARGUMENTS": flags, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples/space/app.py")]
    with (folders / "server.log").open("w+") as log:
        server = subprocess.Popen(command, cwd=folders, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for_server(server, url, folders / "server.log")
            yield url
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for_server(server, url, log):
    # the imports alone take minutes on a machine that does other things too
    for _ in range(1_200):
        assert server.poll() is None, log.read_text()
        try:
            with urlopen(url):
                return
        except URLError:
            time.sleep(0.5)
    pytest.fail(f"no page after ten minutes: {log.read_text()}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = shutil.which("chromedriver")
    # without one, Selenium would download a browser
    if driver is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    # containers have neither a sandbox nor much shared memory
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, url):
    """The page, freshly opened, and what one does with it."""
    browser.get(url)

    def wait(condition):
        return WebDriverWait(browser, 300, poll_frequency=0.05).until(lambda _: condition())

    def find(selector):
        return [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]

    def button(name):
        return next(element for element in find("button") if element.text == name)

    def ask(text):
        find(f"textarea[placeholder='{ASK}']")[0].send_keys(text)
        browser.execute_script(WATCH)
        button("Answer").click()

    def states():
        return [json.loads(state) for state in browser.execute_script("return window.seen")]

    def answered():
        wait(lambda: states()[-1:] and all(states()[-1]["complete"]))
        return states()

    def screenshot(name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    wait(lambda: find(f"textarea[placeholder='{ASK}']"))
    return SimpleNamespace(**locals())


def without_a_page(respondent, question):
    *_, answer = Turns(pause_seconds=1).answer(respondent, respondent.inputs(question))
    return answer.text


def test_both_models_answer_with_their_clocks_one_after_the_other(page, folders):
    page.ask("what is this")
    states = page.answered()
    page.screenshot("text")
    loaded = [
        load_text_model(str(folders / "model"), max_new_tokens=NEW_TOKENS),
        load_text_model(str(folders / "peer"), template=PEER_TEMPLATE, max_new_tokens=NEW_TOKENS),
    ]
    assert states[-1]["answers"] == [without_a_page(respondent, Question("what is this")) for respondent in loaded]
    for first_token, tokens_per_second, tokens in states[-1]["clocks"]:
        assert re.fullmatch(r"[\d,]+\.\d ms", first_token)
        assert int(tokens_per_second.replace(",", "")) > 0
        assert tokens == str(NEW_TOKENS)
    # the peer is silent until the model has written all
    assert all(state["complete"][0] or state["answers"][1] == "" for state in states)


def test_answers_grow_before_the_eyes(page):
    page.ask("what is this")
    states = page.answered()
    for place in range(2):
        answers = [state["answers"][place] for state in states]
        assert all(later.startswith(earlier) for earlier, later in pairwise(answers))
        assert len(set(answers)) > 3


def test_an_image_is_asked_about(page, folders, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    picture.save(tmp_path / "picture.png")
    page.button("Image and text").click()
    page.wait(lambda: page.find("button[aria-label='Click to upload or drop files'], .upload-container button"))
    page.browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(tmp_path / "picture.png"))
    page.wait(lambda: page.find("img[src*='picture.png']"))
    page.ask("what is this")
    states = page.answered()
    page.screenshot("image_and_text")
    loaded = [
        load_image_text_model(str(folders / "vision_model"), max_new_tokens=NEW_TOKENS),
        load_image_text_model(str(folders / "vision_peer"), max_new_tokens=NEW_TOKENS),
    ]
    question = Question("what is this", picture)
    assert states[-1]["answers"] == [without_a_page(respondent, question) for respondent in loaded]


def test_what_cannot_be_asked_is_said(page):
    page.ask("a" * 800)
    # the template's token is one of them
    refusal = "the input has 801 tokens, but peer reads at most 724: shorten it"
    page.wait(lambda: refusal in page.browser.find_element(By.TAG_NAME, "body").text)
    page.screenshot("refused")
    assert page.states()[-1]["answers"] == ["", ""]


def test_an_example_is_put_into_the_text(page):
    page.button("a gnat").click()
    page.wait(lambda: page.find(f"textarea[placeholder='{ASK}']")[0].get_attribute("value") == "a gnat")


def test_the_page_asks_no_other_server_and_reports_no_error(page, url):
    page.browser.get_log("performance")
    page.browser.get_log("browser")
    page.browser.get(url)
    page.wait(lambda: page.find(f"textarea[placeholder='{ASK}']"))
    page.ask("what is this")
    page.answered()
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert len(asked) > 5
    assert [other for other in asked if not other.startswith((url, "data:", "blob:"))] == []
    assert [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(
    ("flags", "tabs", "answers"),
    [
        ("--model model", ["Text"], 1),
        ("--model model --peer peer", ["Text"], 2),
        ("--vision-peer vision_peer --vision-model vision_model", ["Image and text"], 2),
    ],
)
def test_a_tab_is_there_for_the_models_that_are_named(flags, tabs, answers, folders, monkeypatch):
    monkeypatch.chdir(folders)
    components = build_page(load_tabs(parse(flags.split())), Turns()).get_config_file()["components"]
    assert [part["props"]["label"] for part in components if part["type"] == "tabitem"] == tabs
    assert sum(part["props"].get("label") == "Answer" for part in components) == answers


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "name a --model or a --vision-model"),
        ("--peer peer --vision-model x", "there is a peer, but no model to stand beside it"),
    ],
)
def test_flags_that_make_no_page_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse(flags.split())
    assert message in capsys.readouterr().err
