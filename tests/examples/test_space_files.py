"""What installs the page agrees with what the project is tested with, and with what a Space installs."""

from pathlib import Path

import yaml


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples/space"


def pins(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_pillow_alone_is_pinned_twice():
    assert pins(SPACE / "constraints.txt").keys() & pins(ROOT / "constraints.txt").keys() == {"pillow"}


def test_a_space_installs_the_gradio_that_the_page_is_tested_with():
    _, front_matter, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    data = yaml.safe_load(front_matter)
    assert data["sdk_version"] == pins(SPACE / "constraints.txt")["gradio"]
    assert (SPACE / data["app_file"]).is_file()
