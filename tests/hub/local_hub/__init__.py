"""A Hugging Face Hub on 127.0.0.1 for tests: the real client and the real `hf` command talk to it over sockets.

    with LocalHub() as hub, hub.connected(tmp_path / "home"):   # the huggingface_hub of this process
        HfApi(endpoint=hub.url, token=hub.token).create_repo("tester/model")
    with LocalHub() as hub:                                     # a child process
        subprocess.run(["hf", "auth", "whoami"], env=os.environ | hub.environment(tmp_path / "home"), check=True)

What it answers is what `huggingface_hub` 2.4 was seen to need. The state is in memory, contents are files in a
temporary folder.
"""

from .hub import LocalHub
from .storage import Commit


__all__ = ["Commit", "LocalHub"]
