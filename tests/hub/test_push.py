"""What is pushed is there as a whole or not at all, is sent once, and nothing else on the Hub changes."""

import logging
import shutil
import time

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, lfs, snapshot_download
from local_hub import LocalHub
from push_tester import CODE, FAKE_TOKEN, change_json, save_model, save_shards, writes

from encdec_slm.hub import push
from encdec_slm.hub.clean_process import check_in_clean_process
from encdec_slm.hub.code_files import INSTALLED


REPO = "tester/model"
OFFLINE_LOGIN = r"log in with `hf auth login`, set HF_TOKEN or pass token"


@pytest.fixture(scope="module")
def saved(tiny_tokenizer, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model", tiny_tokenizer)


@pytest.fixture
def folder(saved, tmp_path):
    """A model folder that a test may change."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def _at_once(monkeypatch):
    """The client does not wait before it tries again."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(params=["local_hub", "local_hub_with_xet"])
def any_hub(request):
    return request.getfixturevalue(request.param)


def send(folder, repo_id=REPO, **options):
    """Pushes without the check, which has tests of its own."""
    return push(folder, repo_id, **{"check": False, **options})


def uploads(hub):
    return [path for method, path in hub.requests if method == "PUT"]


def pushed(hub, repo_id=REPO, revision="main"):
    return {path: content for path, content in hub.files(repo_id, revision).items() if path != ".gitattributes"}


def status_of(result):
    return {file.path: file.status for file in result.plan.files}


def refusal(kind, folder, repo_id=REPO, **options):
    with pytest.raises(kind) as error:
        send(folder, repo_id, **options)
    # of this error alone, and not of one that happens to be a subclass
    assert type(error.value) is kind
    return str(error.value)


def test_what_is_pushed_works_for_others_and_computes_the_same(any_hub, folder):
    result = send(folder)
    files = pushed(any_hub)
    own = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files.keys() == {"README.md", *CODE, *own}
    for name in own:
        assert files[name] == (folder / name).read_bytes()
    assert result.commit == any_hub.commits(REPO)[0].sha
    assert result.url.endswith(f"/{REPO}/commit/{result.commit}")
    # the repository, and then all of it at once
    assert [commit.message for commit in any_hub.commits(REPO)] == ["Upload model with encdec-slm", "initial commit"]
    if constants.HF_HUB_DISABLE_XET:
        check_in_clean_process(snapshot_download(REPO), source=folder)


def test_a_second_push_sends_nothing(any_hub, folder):
    first = send(folder)
    any_hub.requests.clear()
    second = send(folder)
    assert writes(any_hub) == []
    assert second.commit == first.commit
    assert second.plan.changes == ()
    assert second.plan.is_done


def test_only_what_changed_is_sent(any_hub, folder):
    send(folder)
    change_json(folder / "generation_config.json", max_new_tokens=7)
    any_hub.requests.clear()
    result = send(folder, commit_message="Longer answers")
    assert [file.path for file in result.plan.changes] == ["generation_config.json"]
    assert uploads(any_hub) == []
    assert [commit.message for commit in any_hub.commits(REPO)][:-1] == [
        "Longer answers",
        "Upload model with encdec-slm",
    ]


def test_weights_are_hashed_once(local_hub, folder, tiny_model, monkeypatch):
    send(folder)
    tiny_model.lm_head.weight.data.neg_()
    tiny_model.save_pretrained(folder)
    hashed = []
    hash_file = lfs.sha_fileobj
    monkeypatch.setattr(lfs, "sha_fileobj", lambda file: hashed.append(file.name) or hash_file(file))
    # of the same size: it is the plan that needs the hash
    assert status_of(send(folder))["model.safetensors"] == "changed"
    assert len(hashed) == 1
    assert pushed(local_hub)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_dry_run_sends_nothing_and_needs_no_token(local_hub, folder, monkeypatch):
    local_hub.add_repository("tester/public", {"config.json": b"{}"})
    monkeypatch.delenv("HF_TOKEN")
    said = []
    for repo_id, status in ((REPO, "new"), ("tester/public", "changed")):
        result = send(folder, repo_id, dry_run=True, report=said.append)
        assert status_of(result)["config.json"] == status
        assert (result.commit, result.url) == (None, None)
    assert writes(local_hub) == []
    assert local_hub.files("tester/public") == {"config.json": b"{}"}
    assert said[1] == said[3] == "dry run: nothing was sent"


def test_the_plan_says_what_changes_and_what_stays(local_hub, folder):
    local_hub.add_repository(REPO, {"notes.txt": b"mine", "config.json": b"{}"})
    (folder / "modeling_encdec_slm.py").write_text("an older version")
    said = []
    send(folder, dry_run=True, report=said.append)
    lines = said[0].splitlines()
    assert lines[0].startswith(f"model to {REPO} (branch main; onto commit ")
    size = (folder / "model.safetensors").stat().st_size / 1000
    assert f"  new       {size:>6.1f} kB  model.safetensors" in lines
    assert any(line.startswith("  changed ") and line.endswith(" config.json") for line in lines)
    assert "  written for the push: README.md, modeling_encdec_slm.py" in lines
    assert "  left out of the folder: checkpoint-10/, optimizer.pt, trainer_state.json" in lines
    assert "  left alone on the Hub: notes.txt" in lines


def test_weights_of_an_older_push_are_deleted_in_the_same_commit(local_hub, folder, tmp_path, tiny_tokenizer):
    shards = save_shards(tmp_path / "sharded", tiny_tokenizer)
    send(tmp_path / "sharded")
    HfApi().upload_file(repo_id=REPO, path_in_repo="model-notes.safetensors", path_or_fileobj=b"of the user")
    before = len(local_hub.commits(REPO))
    result = send(folder)
    stale = {*shards, "model.safetensors.index.json"}
    assert {path for path, status in status_of(result).items() if status == "deleted"} == stale
    weights = {path for path in pushed(local_hub) if "safetensors" in path}
    assert weights == {"model.safetensors", "model-notes.safetensors"}
    assert len(local_hub.commits(REPO)) == before + 1
    # and back, as `from_pretrained` would read the whole file first
    assert status_of(send(tmp_path / "sharded"))["model.safetensors"] == "deleted"
    assert "model.safetensors" not in pushed(local_hub)


def test_a_card_is_written_once_and_never_over_another(local_hub, folder):
    send(folder)
    assert pushed(local_hub)["README.md"].startswith(b"---\n")
    HfApi().upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=b"# By hand\n")
    send(folder)
    assert pushed(local_hub)["README.md"] == b"# By hand\n"
    # that of the folder is the user's will
    (folder / "README.md").write_text("# Mine\n")
    send(folder)
    assert pushed(local_hub)["README.md"] == b"# Mine\n"


@pytest.mark.usefixtures("_at_once")
def test_after_a_cut_connection_only_what_is_missing_is_sent(local_hub, tmp_path):
    shards = save_shards(tmp_path / "sharded")
    *_, second, largest = sorted((tmp_path / "sharded" / name).stat().st_size for name in shards)
    assert second < largest
    # so often as the client tries, and of one file only
    local_hub.faults.cut_upload_after(second, times=6)
    message = refusal(OSError, tmp_path / "sharded")
    assert "push again, what has arrived is not sent twice" in message
    assert [commit.message for commit in local_hub.commits(REPO)] == ["initial commit"]
    local_hub.requests.clear()
    send(tmp_path / "sharded")
    assert len(uploads(local_hub)) == 1
    assert len(local_hub.commits(REPO)) == 2
    for name in shards:
        assert pushed(local_hub)[name] == (tmp_path / "sharded" / name).read_bytes()


def test_what_another_commits_meanwhile_is_not_overwritten(local_hub, folder):
    local_hub.add_repository(REPO, {})

    def commit_meanwhile(line):
        if line.startswith("model to"):
            HfApi().upload_file(repo_id=REPO, path_in_repo="config.json", path_or_fileobj=b"{}")

    assert "has changed on the Hub since the plan was made" in refusal(OSError, folder, report=commit_meanwhile)
    assert local_hub.files(REPO) == {"config.json": b"{}"}


def test_a_repository_that_appears_meanwhile_is_not_taken(local_hub, folder):
    message = refusal(OSError, folder, report=lambda line: HfApi().create_repo(REPO, exist_ok=True))
    assert "has changed on the Hub since the plan was made" in message
    assert pushed(local_hub) == {}


@pytest.mark.usefixtures("_at_once")
def test_a_full_disk_there_leaves_no_commit(any_hub, folder):
    any_hub.faults.full_disk(100_000)
    message = refusal(OSError, folder)
    assert "507" in message
    assert "No space left" in message
    assert pushed(any_hub) == {}
    any_hub.faults.full_disk(None)
    assert send(folder).commit == any_hub.commits(REPO)[0].sha


def test_a_file_that_the_hub_does_not_take_is_missed(local_hub, folder, monkeypatch):
    create_commit = HfApi.create_commit

    def without_configuration(api, repo_id, operations, **options):
        # as the Hub does with what a `.gitignore` in the repository names
        taken = [operation for operation in operations if operation.path_in_repo != "config.json"]
        return create_commit(api, repo_id, taken, **options)

    monkeypatch.setattr(HfApi, "create_commit", without_configuration)
    assert "did not take config.json" in refusal(ValueError, folder)


def test_a_repository_is_as_private_as_was_said(local_hub, folder):
    send(folder, "tester/secret", private=True)
    assert HfApi().model_info("tester/secret").private
    send(folder, "tester/open", private=False)
    assert not HfApi().model_info("tester/open").private
    assert "tester/secret is private, not public" in refusal(ValueError, folder, "tester/secret", private=False)
    local_hub.requests.clear()
    assert "tester/open is public, not private" in refusal(ValueError, folder, "tester/open", private=True)
    assert writes(local_hub) == []
    # not said: as it is
    send(folder, "tester/secret", private=None)


def test_a_branch_is_made_and_main_stays(local_hub, folder):
    for repo_id, files in ((REPO, {"notes.txt": b"mine"}), ("tester/other", None)):
        if files is not None:
            local_hub.add_repository(repo_id, files)
        result = send(folder, repo_id, revision="try")
        assert "(branch try, new; onto" in str(result.plan)
        assert {"notes.txt", ".gitattributes"} >= local_hub.files(repo_id).keys()
        assert "model.safetensors" in pushed(local_hub, repo_id, "try")
    assert "notes.txt" in pushed(local_hub, REPO, "try")
    again = send(folder, revision="try")
    assert again.plan.is_done
    # a branch where there is nothing to change is made all the same
    send(folder)
    local_hub.requests.clear()
    assert send(folder, revision="copy").commit == local_hub.commits(REPO)[0].sha
    assert [path for _, path in writes(local_hub)] == [f"/api/models/{REPO}/branch/copy"]


def test_tags_and_commits_never_change(local_hub, folder):
    local_hub.add_repository(REPO, {})
    HfApi().create_tag(REPO, tag="v1")
    local_hub.requests.clear()
    assert "v1 is a tag of tester/model: name a branch" in refusal(ValueError, folder, revision="v1")
    commit = local_hub.commits(REPO)[0].sha
    assert f"{commit} is a commit" in refusal(ValueError, folder, revision=commit)
    assert writes(local_hub) == []


def test_a_name_alone_is_in_the_namespace_of_the_user(local_hub, folder):
    assert send(folder, "model").plan.repo_id == "tester/model"
    assert send(folder, "acme/model").plan.repo_id == "acme/model"
    assert pushed(local_hub, "acme/model").keys() == pushed(local_hub, "tester/model").keys()


def test_who_may_not_write_is_told_so(local_hub, folder, monkeypatch):
    local_hub.add_repository("other/model", {})
    for repo_id in ("other/model", "other/new"):
        message = refusal(OSError, folder, repo_id)
        assert f"refuses to write to {repo_id}" in message
        assert "the token needs the right to write to other" in message
    local_hub.requests.clear()
    assert OFFLINE_LOGIN in refusal(OSError, folder, token=FAKE_TOKEN)
    monkeypatch.delenv("HF_TOKEN")
    for repo_id in (REPO, "model"):
        assert OFFLINE_LOGIN in refusal(OSError, folder, repo_id)
    assert writes(local_hub) == []
    # a token that is given wins over that of the environment
    send(folder, token=local_hub.token)


def test_no_connection_is_told(local_hub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="unset the `HF_HUB_OFFLINE` environment variable"):
        send(folder)
    with LocalHub() as gone:
        pass
    with gone.connected(tmp_path / "home"):
        assert "the connection to the Hub broke off (ConnectError" in refusal(OSError, folder)
    assert local_hub.requests == []


@pytest.mark.usefixtures("_at_once")
def test_the_token_is_never_said(tmp_path, folder, caplog, capfd):
    for name in ("huggingface_hub", "transformers", "encdec_slm", "httpx2", "httpcore2"):
        caplog.set_level(logging.DEBUG, name)
        logging.getLogger(name).propagate = True
    with LocalHub(token=FAKE_TOKEN) as hub, hub.connected(tmp_path / "home"):
        result = send(folder, report=print)
        hub.faults.fail("/commit/main", 500)
        change_json(folder / "config.json", note="changed")
        errors = [refusal(OSError, folder), refusal(OSError, folder, "other/model")]
    said = capfd.readouterr()
    assert any(REPO in record.getMessage() for record in caplog.records)
    for text in (caplog.text, said.out, said.err, *errors, repr(result), str(result.plan)):
        assert FAKE_TOKEN not in text


@pytest.mark.parametrize("name", [".env", "README.md"])
def test_with_a_secret_nothing_is_sent(local_hub, folder, name):
    (folder / name).write_text(f"HF_TOKEN={FAKE_TOKEN}")
    message = refusal(ValueError, folder)
    assert name in message
    assert FAKE_TOKEN not in message
    assert local_hub.requests == []


@pytest.mark.usefixtures("quick_clean_process")
def test_what_does_not_work_for_others_is_not_sent(local_hub, folder, tmp_path, monkeypatch):
    """A file of ours that imports the package works here, where it is installed, and nowhere else."""
    installed = shutil.copytree(INSTALLED, tmp_path / "installed")
    with (installed / "modeling_encdec_slm_layers.py").open("a") as file:
        file.write("\nfrom encdec_slm import register\n")
    monkeypatch.setattr("encdec_slm.hub.shipped_code.INSTALLED", installed)
    said = []
    with pytest.raises(ValueError, match=r"is not installed: ModuleNotFoundError: .*encdec_slm") as error:
        push(folder, REPO, report=said.append)
    assert "Traceback" not in str(error.value)
    assert len(str(error.value)) < 800
    assert writes(local_hub) == []
    assert len(said) == 1


def test_operations_of_a_plan_are_those_of_the_client(local_hub, folder):
    result = send(folder, dry_run=True)
    assert {type(file.operation) for file in result.plan.files} == {CommitOperationAdd}
    assert "operation" not in repr(result)
