"""`encdec-slm push` does what `push` does, and says what was done or why not."""

import sys

import pytest
from push_tester import save_model, writes

from encdec_slm.cli import main
from encdec_slm.hub import push


REPO = "tester/model"


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model", tiny_tokenizer)


@pytest.fixture
def run(folder, capsys):
    """Pushes; returns exit code, standard output and standard error."""

    def run(*options, repo_id=REPO, model=folder):
        code = main(["push", str(model), repo_id, "--no-check", *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_plan_and_the_commit_are_printed(local_hub, run):
    code, out, _ = run("--message", "First")
    commit, _ = local_hub.commits(REPO)
    assert code == 0
    assert "  left out of the folder: checkpoint-10/, optimizer.pt, trainer_state.json\n" in out
    assert out.endswith(f"\npushed: {local_hub.url}/{REPO}/commit/{commit.sha}\n")
    assert commit.message == "First"
    assert run()[1].endswith("nothing to send: the Hub holds all of it\n")


def test_a_dry_run_sends_nothing(local_hub, run):
    code, out, _ = run("--dry-run")
    assert code == 0
    assert out.startswith(f"model to {REPO} (branch main; onto a new repository)\n")
    assert out.endswith("\ndry run: nothing was sent\n")
    assert writes(local_hub) == []


def test_options_are_those_of_the_function(local_hub, run):
    code, *_ = run("--private", "--revision", "try", "--include", "trainer_*", "--include", "checkpoint-10/*")
    assert code == 0
    files = local_hub.files(REPO, "try")
    assert {"trainer_state.json", "checkpoint-10/model.safetensors"} < files.keys()
    assert local_hub.files(REPO).keys() == {".gitattributes"}
    local_hub.add_repository("tester/open", {})
    code, out, err = run("--private", repo_id="tester/open")
    assert (code, out) == (2, "")
    assert err.startswith("encdec-slm: error: tester/open is public, not private")


def test_mistakes_are_one_line(local_hub, run, tmp_path):
    (tmp_path / ".env").write_text("x")
    (tmp_path / "pytorch_model.bin").write_text("x")
    for model, message in ((tmp_path / "nothing", "there is no model folder"), (tmp_path, "there are secrets in")):
        code, out, err = run(model=model)
        assert (code, out) == (2, "")
        assert err.startswith(f"encdec-slm: error: {message}")
        assert err.count("\n") == 1
    (tmp_path / ".env").unlink()
    assert "pytorch_model.bin" in run(model=tmp_path)[2]
    local_hub.faults.fail("/commit/main", 403, message="No.")
    code, _, err = run()
    assert code == 2
    # progress bars of the client come before
    assert err.splitlines()[-1].startswith(f"encdec-slm: error: the Hub refuses to write to {REPO} (No.)")


def test_the_check_is_made_unless_it_is_refused(local_hub, folder, monkeypatch, capsys):
    checked = []
    # the package has a function of the name of the module
    module = sys.modules[push.__module__]
    monkeypatch.setattr(module, "_check", lambda contents, token: checked.append(contents.source))
    assert main(["push", str(folder), REPO]) == 0
    assert checked == [folder]
    assert "checked: works without encdec_slm, and computes the same\n" in capsys.readouterr().out
