import json
import shutil

import pytest
from original_variants import contents, load_variant
from original_vision_variants import TINY

from encdec_slm.conversion import convert_original


@pytest.fixture
def variant():
    """A small checkpoint whose configuration the released model's defaults do not fit."""
    return load_variant("wide_attention")


@pytest.fixture
def refused(tmp_path):
    """Converts what must be refused: checks that nothing on disk changed and returns the message."""

    def convert(checkpoint, **options):
        before, folders = contents(tmp_path), sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=r".") as error:
            convert_original(checkpoint, tmp_path / "new" / "out", **options)
        assert contents(tmp_path) == before
        assert sorted(tmp_path.rglob("*")) == folders
        return str(error.value)

    return convert


@pytest.fixture
def write_json(tmp_path):
    """Writes an object to a JSON file."""

    def write(value, name="config.json"):
        (tmp_path / name).write_text(json.dumps(value))
        return tmp_path / name

    return write


@pytest.fixture
def vision_folder(tmp_path):
    """A folder of the original's vision model, to be changed."""
    return shutil.copytree(TINY, tmp_path / "original")
