"""What goes wrong at the local Hub on request, what the client makes of it, and how the Hub comes and goes."""

import http.client
import socket
import tempfile
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import close_session, constants, create_repo, get_session, hf_hub_download, whoami
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from local_hub import LocalHub
from local_hub_tester import FILES, REPO, WEIGHTS, client, large_contents


@pytest.fixture
def filled(local_hub):
    """A hub with a repository."""
    local_hub.add_repository(REPO, FILES)
    return local_hub


@pytest.fixture
def _at_once(monkeypatch):
    """The client does not wait before it tries again."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("_at_once")
def test_a_cut_upload_is_sent_again_from_its_beginning(local_hub):
    api = client(local_hub)
    api.create_repo(REPO)
    local_hub.faults.cut_upload_after(100_000, times=2)
    api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS)
    assert len(large_contents(local_hub, "PUT")) == 3
    assert local_hub.files(REPO)["model.safetensors"] == WEIGHTS


@pytest.mark.usefixtures("_at_once")
def test_an_upload_that_is_cut_again_and_again_fails_and_leaves_nothing(local_hub):
    api = client(local_hub)
    api.create_repo(REPO)
    before = local_hub.files(REPO)
    local_hub.faults.cut_upload_after(100_000, times=6)
    with pytest.raises(RuntimeError, match=r"Error while uploading 'model.safetensors' to the Hub") as error:
        api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS)
    # no answer came
    assert not isinstance(error.value.__cause__, HfHubHTTPError)
    assert local_hub.files(REPO) == before
    # nor is the content taken for uploaded
    api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS)
    assert local_hub.files(REPO)["model.safetensors"] == WEIGHTS


@pytest.mark.usefixtures("_at_once")
def test_a_cut_download_goes_on_where_it_was_cut(filled, monkeypatch):
    # what the client has is what it has written, and it writes 10 MiB at once
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    filled.faults.cut_download_after(120_000)
    filled.faults.cut_download_after(60_000)
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == WEIGHTS
    path = f"/contents/{sha256(WEIGHTS).hexdigest()}"
    assert filled.ranges == [(path, "bytes=100000-"), (path, "bytes=150000-")]
    assert large_contents(filled, "GET") == [path] * 3


def test_requests_fail_as_often_as_asked(filled):
    filled.faults.fail("^POST .*/commit/main", 403, message="Not today.")
    upload = {"repo_id": REPO, "path_in_repo": "a.txt", "path_or_fileobj": b"a"}
    with pytest.raises(HfHubHTTPError, match="403 Forbidden: Not today"):
        client(filled).upload_file(**upload)
    assert "a.txt" not in filled.files(REPO)
    client(filled).upload_file(**upload)
    assert filled.files(REPO)["a.txt"] == b"a"


@pytest.mark.usefixtures("_at_once")
def test_the_client_repeats_what_the_hub_was_too_busy_for(filled):
    filled.faults.fail("/preupload/", 503, times=2)
    filled.requests.clear()
    client(filled).upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"a")
    assert len([path for _, path in filled.requests if "/preupload/" in path]) == 3


def test_a_full_disk_refuses_what_does_not_fit(local_hub):
    api = client(local_hub)
    api.create_repo(REPO)
    before = local_hub.files(REPO)
    local_hub.faults.full_disk(200_000)
    # the client names the file, and the answer is the cause
    with pytest.raises(RuntimeError, match=r"model.safetensors") as error:
        api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS)
    assert isinstance(error.value.__cause__, HfHubHTTPError)
    assert "No space left: the storage holds 200000 bytes" in str(error.value.__cause__)
    with pytest.raises(HfHubHTTPError, match="507"):
        api.upload_file(repo_id=REPO, path_in_repo="rows.txt", path_or_fileobj=WEIGHTS)
    assert local_hub.files(REPO) == before
    # what was refused takes no room
    api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS[:150_000])
    local_hub.faults.full_disk(None)
    api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS)
    assert local_hub.files(REPO)["model.safetensors"] == WEIGHTS


def test_with_xet_a_full_disk_refuses_the_commit(local_hub_with_xet):
    api = client(local_hub_with_xet)
    api.create_repo(REPO)
    local_hub_with_xet.faults.full_disk(200_000)
    with pytest.raises(HfHubHTTPError, match="507"):
        api.upload_file(repo_id=REPO, path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS)
    assert local_hub_with_xet.files(REPO).keys() == {".gitattributes"}


def begin_upload(hub, content, sent):
    """Sends the head of an upload and the first bytes of it; returns the connection."""
    address = urlsplit(hub.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    connection.putrequest("PUT", f"/contents/{sha256(content).hexdigest()}")
    connection.putheader("Content-Length", str(len(content)))
    connection.endheaders(content[:sent])
    return connection


def test_an_upload_on_its_way_keeps_nobody_waiting(filled):
    content = WEIGHTS[::-1]
    connection = begin_upload(filled, content, 1000)
    other = {"repo_id": REPO, "path_in_repo": "other.bin", "path_or_fileobj": WEIGHTS[:1000]}
    with ThreadPoolExecutor(2) as pool:
        upload = pool.submit(client(filled).upload_file, **other)
        download = pool.submit(hf_hub_download, REPO, "model.safetensors")
        try:
            upload.result(timeout=20)
            assert Path(download.result(timeout=20)).read_bytes() == WEIGHTS
        finally:
            connection.send(content[1000:])
    assert connection.getresponse().status == 200


def test_a_content_that_is_not_what_was_announced_is_not_kept(filled):
    connection = begin_upload(filled, WEIGHTS[::-1], 1000)
    connection.send(WEIGHTS[1000:])
    answer = connection.getresponse()
    assert answer.status == 400
    assert b"announced was" in answer.read()
    # the connection is as good as new: the hub has read all that came
    connection.request("GET", f"/contents/{sha256(WEIGHTS[::-1]).hexdigest()}")
    assert connection.getresponse().status == 404


def test_large_files_are_never_in_memory_as_a_whole(local_hub, tmp_path):
    size = 48 * 2**20
    (tmp_path / "model.bin").write_bytes(bytes(size))
    api = client(local_hub)
    api.create_repo(REPO)
    tracemalloc.start()
    try:
        api.upload_file(repo_id=REPO, path_in_repo="model.bin", path_or_fileobj=tmp_path / "model.bin")
        path = hf_hub_download(REPO, "model.bin")
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert Path(path).stat().st_size == size
    # the client holds 10 MiB, more than once
    assert most_bytes < size


def test_afterwards_nothing_is_left(tmp_path, monkeypatch):
    before, threads = dict(vars(constants)), set(threading.enumerate())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with LocalHub() as hub, hub.connected(tmp_path / "home"):
        connection = begin_upload(hub, WEIGHTS, 1000)
        assert whoami()["name"] == "tester"
        # what it keeps, it keeps elsewhere
        assert before["HF_HOME"] not in [str(value)[: len(before["HF_HOME"])] for value in vars(constants).values()]
        assert list(tmp_path.glob("local-hub-*"))
    address = urlsplit(hub.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port))
    connection.close()
    assert not list(tmp_path.glob("local-hub-*"))
    assert dict(vars(constants)) == before
    assert set(threading.enumerate()) <= threads
    with pytest.raises(OfflineModeIsEnabled):
        whoami(token="hf_local")


def test_no_proxy_comes_between(tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "example.com")
    # a session knows the proxies that there were when it began
    close_session()
    get_session()
    with LocalHub() as hub, hub.connected(tmp_path):
        assert whoami()["name"] == "tester"


def test_it_listens_on_no_other_address():
    with LocalHub() as hub:
        port = urlsplit(hub.url).port
        assert hub.url == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(OSError, match=r"refused|assign|unreachable|timed out"):
            socket.create_connection(("127.0.0.2", port), timeout=1)


def test_the_libraries_talk_to_the_hub_that_they_are_connected_to_now(tiny_config, tmp_path):
    for name in ("first", "second"):
        with LocalHub() as hub, hub.connected(tmp_path / name):
            tiny_config.push_to_hub(REPO)
            create_repo("tester/other")
            assert "config.json" in hub.files(REPO)
            assert len(hub.commits("tester/other")) == 1
