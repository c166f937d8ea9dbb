"""Makes the library's common tests importable without the rest of its repository: `make test-peer`.

What they import from outside their own source on the package index is stood in for here. Its generation and export
tests are not there: an empty class stands in, and `tests/models/generation_laws.py` says what holds of generation.
"""

import re
import sys
from types import ModuleType

import pytest
from peer.fetch import CACHE, PACKAGE


if not PACKAGE.is_dir():
    pytest.exit(f"{PACKAGE} is missing: run `make test-peer`, or tests/peer/fetch.py", returncode=2)
sys.path.insert(0, str(CACHE))

# arguments that every configuration takes, with values that are not the defaults
COMMON_ARGUMENTS = {
    "output_hidden_states": True,
    "return_dict": False,
    "dtype": "float16",
    "chunk_size_feed_forward": 3,
    "architectures": ["SomeModel"],
    "id2label": {0: "no", 1: "yes"},
    "label2id": {"no": 0, "yes": 1},
    "problem_type": "regression",
}


def stand_in(name, **contents):
    """Puts a module of that name and contents in the place of one that is not there."""
    module = ModuleType(f"{PACKAGE.name}.{name}")
    vars(module).update(contents)
    sys.modules[module.__name__] = module


for folder in ("exporters", "generation", "utils"):
    stand_in(folder, __path__=[])
stand_in("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
stand_in("generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
stand_in("utils.test_configuration_utils", config_common_kwargs=COMMON_ARGUMENTS)


def pytest_configure(config):
    used = set(re.findall(r"\bmark\.(\w+)", (PACKAGE / "test_modeling_common.py").read_text()))
    for name in sorted(used - {"parametrize", "skip", "skipif", "xfail"}):
        config.addinivalue_line("markers", f"{name}: of the library")
