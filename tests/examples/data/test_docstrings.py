"""Functions and their docstrings: nothing of the one in the other, no function in two splits."""

import ast
from importlib.metadata import distribution

import pytest
from data.docstrings import Docstrings, first_paragraph, package_rows


SHARED = '''
def shared(values):
    """Add up values, a copied function."""
    total = 0
    for value in values:
        total += value
    return total
'''

LEFT_OF_ITS_FUNCTION = '''
class A:
    def usage(self):
        """A string reaches further left than the function."""
        return """
usage: some command with a long line of options
"""
'''


def function(name, docstring="Return the product of the values, one after the other."):
    return f'''
def {name}(values):
    """{docstring}"""
    {name}_product = 1
    for value in values:
        {name}_product *= value
    return {name}_product
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay out a distribution as pip does, from its modules' texts."""
    monkeypatch.syspath_prepend(tmp_path)

    def lay_out(name, record=True, **modules):
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: MIT\n"
        )
        names = [f"{name}/{module}.py" for module in modules]
        for file, text in zip(names, modules.values(), strict=True):
            (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / file).write_text(text, encoding="utf-8")
        if record:
            record_name = f"{metadata.name}/RECORD"
            (tmp_path / record_name).write_text("".join(f"{file},,\n" for file in [*names, record_name]))

    return lay_out


@pytest.fixture
def build(tmp_path):
    def build(**splits):
        builder = Docstrings(cache_dir=tmp_path / "cache", **splits)
        builder.download_and_prepare()
        return builder.as_dataset()

    return build


def test_rows_hold_the_function_without_docstring_and_where_it_is_from(install, build):
    install("one", module=function("multiply"))
    install("two", module=function("divide"))
    install("three", module=function("add"))
    (row,) = build(train=["one"], validation=["two"], test=["three"])["train"]
    assert row["target"] == "Return the product of the values, one after the other."
    assert row["target"] not in row["source"]
    assert row["source"].startswith("def multiply(values):")
    assert (row["name"], row["package"], row["license"]) == ("one/module.py:2:multiply", "one", "MIT")


def test_a_copied_function_is_in_the_held_out_split_alone(install, build):
    install("one", module=function("multiply") + SHARED)
    install("two", module=function("divide") + SHARED.replace("    ", "  "))
    install("three", module=function("add") + SHARED.replace(" += ", "  +=  "))
    dataset = build(train=["one"], validation=["two"], test=["three"])
    splits = [name for name, rows in dataset.items() for row in rows if "shared" in row["source"]]
    assert splits == ["test"]
    assert {name: len(rows) for name, rows in dataset.items()} == {"train": 1, "validation": 1, "test": 2}


def test_a_source_is_the_function_minus_its_docstring():
    """On a real package: what is left says what the original without its first statement says, indentation aside."""
    package = distribution("pytest")
    sources = {row["name"]: row["source"] for row in package_rows(package)}
    compared = 0
    for file in package.files:
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    source = sources.get(f"{file.as_posix()}:{node.lineno}:{node.name}")
                    if source is not None:
                        del node.body[0]
                        (left,) = ast.parse(source).body
                        assert ast.unparse(left).replace(" ", "") == ast.unparse(node).replace(" ", "")
                        compared += 1
    assert compared == len(sources) > 100


@pytest.mark.parametrize(
    ("docstring", "paragraph"),
    [
        ("Sum of\nvalues.\n\nMore about it.", "Sum of values."),
        ("Sum of values.\nArgs:\n    values: them", "Sum of values."),
        ("Sum of values.\n:param values: them", "Sum of values."),
        ("Sum of values.\n>>> add([1])", "Sum of values."),
        ("Args:\n    values: them", ""),
        ("Parameters\n----------\nvalues : list", ""),
        ("labels (`torch.Tensor`): what to predict", ""),
        ("Send a mail to user@host and return: nothing.", "Send a mail to user@host and return: nothing."),
    ],
)
def test_a_paragraph_ends_at_an_empty_line_or_a_section(docstring, paragraph):
    assert first_paragraph(docstring) == paragraph


@pytest.mark.parametrize(
    "text",
    [
        'def f(values): "Docstring on the line of the function."; return [value * value for value in values]\n',
        'def f(values):\n    """Nothing but a docstring of some length is in this function, so there is no code."""\n',
        LEFT_OF_ITS_FUNCTION,
        function("f", docstring="Zu kurz"),
        function("f", docstring="A docstring with an umlaut: \u00e4, for example."),
        "def broken(:\n",
    ],
)
def test_functions_that_cannot_be_used_are_left_out(install, text):
    install("one", module=text)
    assert list(package_rows(distribution("one"))) == []


def test_test_folders_are_left_out(install):
    install("one", **{"module": function("multiply"), "tests/module": function("check")})
    assert [row["name"] for row in package_rows(distribution("one"))] == ["one/module.py:2:multiply"]


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ImportError, match="no-such-package is not installed"):
        Docstrings(train=["no-such-package"])


def test_a_package_in_two_splits_is_refused(install):
    install("one", module=function("multiply"))
    with pytest.raises(ValueError, match="one would be in the splits more than once"):
        Docstrings(train=["one"], test=["one"])


def test_a_package_without_a_list_of_files_is_refused(install):
    install("one", record=False, module=function("multiply"))
    with pytest.raises(ValueError, match="RECORD"):
        Docstrings(train=["one"])
