"""The local Hub answers the real client and the real command as the Hub does."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import constants, get_session, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from local_hub import LocalHub
from local_hub_tester import CARD, FILES, REPO, WEIGHTS, client, large_contents, read_folder, write_folder


@pytest.fixture(params=["local_hub", "local_hub_with_xet"])
def hub(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def uploaded(local_hub, tmp_path):
    """A hub with the files in a repository, as the client put them there."""
    client(local_hub).create_repo(REPO)
    client(local_hub).upload_folder(repo_id=REPO, folder_path=write_folder(tmp_path / "source"))
    return local_hub


def test_what_is_uploaded_is_downloaded(hub, tmp_path):
    api = client(hub)
    assert api.create_repo(REPO).repo_id == REPO
    api.upload_folder(repo_id=REPO, folder_path=write_folder(tmp_path / "source"))
    # every new repository says which files are large
    attributes = hub.files(REPO).pop(".gitattributes")
    assert b"*.safetensors filter=lfs" in attributes
    assert hub.files(REPO) == read_folder(snapshot_download(REPO)) == FILES | {".gitattributes": attributes}
    assert api.get_paths_info(REPO, "model.safetensors")[0].lfs.sha256 == sha256(WEIGHTS).hexdigest()
    assert bool(large_contents(hub, "GET")) == bool(large_contents(hub, "PUT")) == constants.HF_HUB_DISABLE_XET


def test_an_upload_without_a_change_makes_no_commit(hub, tmp_path):
    api, source = client(hub), write_folder(tmp_path / "source")
    api.create_repo(REPO)
    first = api.upload_folder(repo_id=REPO, folder_path=source)
    assert api.upload_folder(repo_id=REPO, folder_path=source).oid == first.oid
    assert [commit.sha for commit in hub.commits(REPO)][:-1] == [first.oid]
    # a change of one file uploads no other
    (source / "config.json").write_text("{}")
    hub.requests.clear()
    second = api.upload_folder(repo_id=REPO, folder_path=source)
    assert [commit.parent for commit in hub.commits(REPO)][:1] == [first.oid]
    assert api.model_info(REPO).sha == second.oid
    assert not large_contents(hub, "PUT")


def test_a_seeded_repository_is_as_if_uploaded(hub):
    hub.add_repository(REPO, FILES)
    hub.add_repository(REPO, {"rows.parquet": WEIGHTS}, repo_type="dataset")
    assert hub.files(REPO) == read_folder(snapshot_download(REPO)) == FILES
    assert read_folder(snapshot_download(REPO, repo_type="dataset")) == {"rows.parquet": WEIGHTS}
    assert bool(large_contents(hub, "GET")) == constants.HF_HUB_DISABLE_XET
    with pytest.raises(ValueError, match=f"there is a model {REPO} already"):
        hub.add_repository(REPO, {})


def test_without_xet_a_client_loads_what_came_by_xet(local_hub_with_xet, tmp_path, monkeypatch):
    client(local_hub_with_xet).create_repo(REPO)
    client(local_hub_with_xet).upload_folder(repo_id=REPO, folder_path=write_folder(tmp_path / "source"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == WEIGHTS


def test_info_tells_card_configuration_and_sizes(uploaded):
    info = client(uploaded).model_info(REPO, files_metadata=True)
    assert (info.pipeline_tag, info.tags, info.library_name) == ("text2text-generation", ["small"], "transformers")
    assert info.card_data.license == "mit"
    assert info.config == {"model_type": "t5"}
    sizes = {file.rfilename: file.size for file in info.siblings}
    assert {name: sizes[name] for name in FILES} == {name: len(content) for name, content in FILES.items()}
    assert [model.id for model in client(uploaded).list_models(author="tester")] == [REPO]
    assert list(client(uploaded).list_models(author="acme")) == []


def test_the_tree_has_folders_and_what_is_below(uploaded):
    api = client(uploaded)
    assert {item.path for item in api.list_repo_tree(REPO)} == {".gitattributes", "code", *FILES} - {"code/é one.py"}
    assert {item.path for item in api.list_repo_tree(REPO, recursive=True)} == {".gitattributes", "code", *FILES}
    assert [item.path for item in api.list_repo_tree(REPO, "code")] == ["code/é one.py"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "data"))


def test_a_card_with_broken_metadata_is_refused(local_hub):
    api = client(local_hub)
    api.create_repo(REPO)
    card = {"repo_id": REPO, "path_in_repo": "README.md"}
    with pytest.raises(ValueError, match="Invalid YAML metadata"):
        api.upload_file(path_or_fileobj=b"---\nlicense: [\n---\n", **card)
    assert "README.md" not in local_hub.files(REPO)
    for content in (CARD, b"# No metadata\n"):
        api.upload_file(path_or_fileobj=content, **card)
        assert local_hub.files(REPO)["README.md"] == content


def test_branches_and_tags_stay_where_they_are_put(uploaded):
    api = client(uploaded)
    api.create_branch(REPO, branch="refs/try")
    api.create_tag(REPO, tag="v1")
    api.upload_file(repo_id=REPO, path_in_repo="new.txt", path_or_fileobj=b"new", revision="refs/try")
    assert {name: "new.txt" in uploaded.files(REPO, name) for name in ("main", "v1", "refs/try")} == {
        "main": False,
        "v1": False,
        "refs/try": True,
    }
    assert Path(hf_hub_download(REPO, "new.txt", revision="refs/try")).read_bytes() == b"new"
    refs = api.list_repo_refs(REPO)
    assert [branch.name for branch in refs.branches] == ["main", "refs/try"]
    assert [tag.target_commit for tag in refs.tags] == [refs.branches[0].target_commit]
    for make in (lambda: api.create_branch(REPO, branch="refs/try"), lambda: api.create_tag(REPO, tag="v1")):
        with pytest.raises(HfHubHTTPError, match="409"):
            make()
    api.delete_branch(REPO, branch="refs/try")
    api.delete_tag(REPO, tag="v1")
    for name in ("refs/try", "v1"):
        with pytest.raises(RevisionNotFoundError):
            api.list_repo_files(REPO, revision=name)


def test_an_old_revision_keeps_what_was_deleted_since(uploaded):
    api = client(uploaded)
    old = api.model_info(REPO).sha
    api.delete_file("config.json", REPO)
    api.delete_folder("code", REPO)
    assert set(api.list_repo_files(REPO)) == {".gitattributes", "README.md", "model.safetensors"}
    assert Path(hf_hub_download(REPO, "config.json", revision=old)).read_bytes() == FILES["config.json"]
    assert [commit.commit_id for commit in api.list_repo_commits(REPO)] == [c.sha for c in uploaded.commits(REPO)]
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "config.json")
    api.delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)


def test_a_commit_upon_an_old_parent_is_refused(uploaded):
    api = client(uploaded)
    first, *_ = uploaded.commits(REPO)
    file = {"repo_id": REPO, "path_in_repo": "one.txt", "parent_commit": first.sha}
    api.upload_file(path_or_fileobj=b"1", **file)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"2", **file)
    assert uploaded.files(REPO)["one.txt"] == b"1"


def test_no_commit_of_several_at_once_is_lost(hub):
    api = client(hub)
    api.create_repo(REPO)

    def upload(number):
        content = str(number).encode() * 10_000
        return api.upload_file(repo_id=REPO, path_in_repo=f"{number}.bin", path_or_fileobj=content)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(8)))
    assert hub.files(REPO).keys() == {".gitattributes", *(f"{number}.bin" for number in range(8))}
    assert len(hub.commits(REPO)) == 9


@pytest.mark.parametrize("token", [False, "hf_of_someone_else"])
def test_without_the_token_a_private_repository_is_not_there(local_hub, token):
    local_hub.add_repository(REPO, FILES, private=True)
    local_hub.add_repository("tester/public", FILES)
    stranger = client(local_hub, token)
    for ask in (stranger.model_info, stranger.list_repo_files, stranger.snapshot_download):
        with pytest.raises(HfHubHTTPError, match="401"):
            ask(REPO)
    assert [model.id for model in client(local_hub, False).list_models(author="tester")] == ["tester/public"]
    # nor is anything written
    for write in (lambda: stranger.create_repo("tester/new"), lambda: stranger.delete_repo("tester/public")):
        with pytest.raises(HfHubHTTPError, match="401"):
            write()
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.upload_file(repo_id="tester/public", path_in_repo="a.txt", path_or_fileobj=b"a")
    assert local_hub.files("tester/public") == FILES


def test_a_wrong_token_is_refused_where_none_is_needed(local_hub):
    local_hub.add_repository(REPO, FILES)
    assert client(local_hub, False).model_info(REPO).id == REPO
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        client(local_hub, "hf_of_someone_else").model_info(REPO)


def test_a_repository_that_is_not_there_is_401_without_a_token_and_404_with_it(local_hub):
    for token, status in ((False, 401), (local_hub.token, 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            client(local_hub, token).model_info("tester/nothing")
        assert error.value.response.status_code == status


def test_the_user_writes_under_their_own_names_only(local_hub):
    api = client(local_hub)
    assert [api.whoami()["name"], *(org["name"] for org in api.whoami()["orgs"])] == ["tester", "acme"]
    assert api.create_repo("acme/model", private=True).repo_id == "acme/model"
    assert api.model_info("acme/model").private
    local_hub.add_repository("other/secret", FILES, private=True)
    local_hub.add_repository("other/model", FILES)
    assert len(api.list_repo_files("other/model")) == len(FILES)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("other/secret")
    for write in (lambda: api.create_repo("other/new"), lambda: api.delete_repo("other/model")):
        with pytest.raises(HfHubHTTPError, match="403"):
            write()
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("acme/model")
    assert api.create_repo("acme/model", exist_ok=True).repo_id == "acme/model"


def test_a_part_of_a_file_is_that_part(uploaded):
    url = hf_hub_url(REPO, "model.safetensors")
    for part, expected in (("bytes=5-9", WEIGHTS[5:10]), ("bytes=299990-400000", WEIGHTS[-10:])):
        answer = get_session().get(url, headers={"Range": part})
        assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["Content-Range"] == "bytes 299990-299999/300000"
    assert get_session().get(url, headers={"Range": "bytes=300000-"}).status_code == 416


def hf(hub, home, *arguments):
    """Runs the command of the library in a process of its own; returns what it printed."""
    command = [Path(sys.executable).with_name("hf"), *arguments]
    done = subprocess.run(command, env=os.environ | hub.environment(home), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_of_the_library_works(hub, tmp_path):
    source, home = write_folder(tmp_path / "source"), tmp_path / "home"
    assert hub.user in hf(hub, home, "auth", "whoami")
    # the same contents at once
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: hf(hub, home, "upload", name, str(source), ".", "--private"), (REPO, "acme/model")))
    for name in (REPO, "acme/model"):
        assert {path: hub.files(name)[path] for path in FILES} == FILES
    hf(hub, home, "download", REPO, "--local-dir", str(tmp_path / "target"))
    downloaded = read_folder(tmp_path / "target")
    assert {name: downloaded[name] for name in FILES} == FILES
    assert bool(large_contents(hub, "GET")) == constants.HF_HUB_DISABLE_XET


def test_a_request_that_it_does_not_know_is_told(tmp_path):
    with LocalHub() as hub, hub.connected(tmp_path):
        with pytest.raises(HfHubHTTPError, match="404"):
            client(hub).super_squash_history(REPO)
        assert hub.unhandled == [("POST", f"/api/models/{REPO}/super-squash/main")]
