"""Hubs on 127.0.0.1, to which the huggingface_hub of this process is connected."""

import pytest
from local_hub import LocalHub


@pytest.fixture
def local_hub(tmp_path):
    """A Hub that large files reach by Git LFS. A request that it does not know fails the test."""
    with LocalHub() as hub, hub.connected(tmp_path / "hf_home"):
        yield hub
    assert hub.unhandled == []


@pytest.fixture
def local_hub_with_xet(tmp_path):
    """A Hub that large files reach by Xet, as they do the real one."""
    with LocalHub(use_xet=True) as hub, hub.connected(tmp_path / "hf_home"):
        yield hub
    assert hub.unhandled == []
