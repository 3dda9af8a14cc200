# SPDX-License-Identifier: Apache-2.0

"""The documentation agrees in both languages and with the code, and its examples run.

Both languages show the same code, except for comments, so only the English examples are run.
"""

import ast
import doctest
import inspect
import io
import logging
import re
import runpy
import tokenize
from pathlib import Path

import mindspore
import pages
import pytest

import mindspore_offload

PACKAGE = Path(mindspore_offload.__file__).parent
PUBLIC = [name for name in mindspore_offload.__all__ if callable(getattr(mindspore_offload, name))]
REFERENCE = [page for page in pages.names("en") if page.startswith("mindspore_offload.")]
WITH_MSRUN = ("devices", "semi_auto")  # test_sharded.py runs the first one, and tests/second_memory the other
PROGRAMS = [
    page for page in pages.names("en") if page not in (*REFERENCE, *WITH_MSRUN) and pages.code("en", page, "python")
]

# Their examples need libraries that only `make test-clients` and `make test-peers` install.
LIBRARIES = {"libraries": "mindformers", "pytorch": "torch"}

# The examples of convert_checkpoint cause this warning, and the pages say so.
pytestmark = pytest.mark.filterwarnings("ignore:nn.AdamWeightDecay does not correct the bias")


def test_both_languages_have_the_same_pages_and_partials():
    assert pages.names("en") == pages.names("zh")
    assert {path.name for path in (pages.folder("en") / "_partials").iterdir()} == {
        path.name for path in (pages.folder("zh") / "_partials").iterdir()
    }


@pytest.mark.parametrize("page", pages.names("en"))
def test_both_languages_include_and_show_the_same(page):
    assert pages.included(pages.source("en", page)) == pages.included(pages.source("zh", page))
    english, chinese = (
        [(kind, without_comments(kind, text)) for kind, text in pages.blocks(language, page)]
        for language in pages.LANGUAGES
    )
    assert english == chinese


def without_comments(kind, text):
    if kind != "python":
        return re.sub(r" +# .*", "", text)
    code = re.sub(r"(?m)^(>>>|\.\.\.) ?", "", text) if text.startswith(">>>") else text
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [token.string for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE)]


@pytest.mark.parametrize("language", pages.LANGUAGES)
@pytest.mark.parametrize("page", [page for page in pages.names("en") if page not in REFERENCE])
def test_a_guide_is_readable_where_the_repository_is_shown(page, language):
    """docutils alone, as on such a site, knows all but the list of pages, and tables that have files of their own."""
    docutils = pytest.importorskip("docutils.core")
    text, problems = pages.source(language, page), io.StringIO()
    settings = {"file_insertion_enabled": False, "warning_stream": problems, "syntax_highlight": "none"}
    document = docutils.publish_doctree(text, settings_overrides=settings)
    unknown = re.findall(r'Unknown directive type "(\w+)"', problems.getvalue())
    assert set(unknown) <= ({"toctree"} if page == "index" else {"literalinclude"})
    assert len(re.findall(r": \([A-Z]+/\d\)", problems.getvalue())) == len(unknown), problems.getvalue()
    for table in re.findall(r"literalinclude:: (?:\.\./)?(\S+)", text):
        assert f"{table}``" in text
    nodes = pytest.importorskip("docutils.nodes")
    targets = [link["refuri"] for link in document.findall(nodes.reference)]
    targets += [picture["uri"] for picture in document.findall(nodes.image)]
    for target in targets:
        assert re.match("https?:", target) or (pages.folder(language) / target).exists(), target


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_every_partial_is_included(language):
    every = [pages.source(language, page) for page in pages.names(language)]
    every += [path.read_text(encoding="utf-8") for path in (pages.folder(language) / "_partials").iterdir()]
    used = {Path(path).name for text in every for path in pages.included(text)}
    assert used == {path.name for path in (pages.folder(language) / "_partials").iterdir()}


def test_every_public_name_has_a_page():
    assert {page.split(".")[1] for page in REFERENCE} == set(PUBLIC)


@pytest.mark.parametrize("language", pages.LANGUAGES)
@pytest.mark.parametrize("page", REFERENCE)
def test_a_page_has_the_parameters_and_defaults_of_the_code(page, language):
    text = pages.expanded(language, page)
    expected = inspect.signature(getattr(mindspore_offload, page.split(".")[1])).parameters
    written = inspect.signature(evaluate(f"lambda {pages.signature(text)}: None")).parameters
    assert [(p.name, p.kind, p.default) for p in written.values()] == [
        (p.name, p.kind, p.default) for p in expected.values()
    ]
    defaults = {
        name: inspect.Parameter.empty if default is None else evaluate(default)
        for name, (_, default) in pages.parameters(text).items()
    }
    assert list(defaults.items()) == [(p.name, p.default) for p in expected.values()]


def evaluate(code):
    """Evaluates code of a page, which may name MindSpore's dtypes."""
    return eval(code, {"mindspore": mindspore})


@pytest.mark.parametrize("page", REFERENCE)
def test_both_languages_give_a_parameter_the_same_types(page):
    english, chinese = (pages.parameters(pages.expanded(language, page)) for language in pages.LANGUAGES)
    assert english == chinese


@pytest.mark.parametrize("language", pages.LANGUAGES)
@pytest.mark.parametrize("page", REFERENCE)
def test_a_page_has_the_errors_of_the_code(page, language):
    text = pages.expanded(language, page)
    documented = getattr(mindspore_offload, page.split(".")[1])
    classes = documented.__mro__ if inspect.isclass(documented) else (documented,)
    found = [pages.errors_of_docstring(inspect.cleandoc(c.__doc__ or "")) for c in classes]
    of_itself = (errors for errors in found if not errors or any(names != ["AdamOffload"] for _, names in errors))
    assert pages.errors(text) == next(of_itself)


def messages():
    """Yields every error and warning of the package as a pattern, with `.+` for each inserted value.

    Errors of the commands are excluded: they explain themselves.
    """
    for path in sorted((pages.ROOT / "mindspore_offload/csrc").glob("*.cc")):
        for text in re.findall(r"throw std::runtime_error\((.*?)\);\n", path.read_text(), re.DOTALL):
            parts = [re.findall(r'"([^"]*)"', part) for part in text.split("+")]
            yield re.sub(r"(\.\+)+", ".+", "".join(re.escape("".join(part)) if part else ".+" for part in parts))
    for path in sorted({*PACKAGE.rglob("*.py")} - {*PACKAGE.glob("commands/**/*.py")}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = assigned_texts(tree)
        for node in ast.walk(tree):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name, text = ast.unparse(call.func), call.args[0]
            if name == "refuse" and ast.unparse(call.args[0]).endswith("Error"):
                what, must = (pattern(argument, texts) for argument in call.args[2:4])
                came = "".join(f", but got {pattern(argument, texts)}" for argument in call.args[4:5])
                cures = [*call.args[5:], *(each.value for each in call.keywords if each.arg == "cure")]
                cure = "".join(f"; {pattern(argument, texts)}" for argument in cures)
                yield f"For '.+', the {what} must {must}{came}{cure}\\."
            # The error for a name that a module lacks has Python's own text.
            is_ours = name in ("_warn_once", "warnings.warn", "warn") or (
                isinstance(node, ast.Raise) and "has no attribute" not in ast.unparse(text)
            )
            if is_ours and isinstance(text, (ast.JoinedStr, ast.Constant)):
                yield pattern(text, texts)


def assigned_texts(tree):
    """Returns the texts that the variables of a module have, by name."""
    texts = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            is_tuple = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for name, text in zip(target.elts, value.elts) if is_tuple else [(target, value)]:
                texts.setdefault(getattr(name, "id", None), []).append(text)
    return texts


def pattern(text, texts):
    """Returns a pattern for a text in the code, with `.+` for each inserted value that is not a text itself."""
    if isinstance(text, ast.JoinedStr):
        return "".join(pattern(part, {}) for part in text.values)
    if isinstance(text, ast.IfExp):
        return f"(?:{pattern(text.body, texts)}|{pattern(text.orelse, texts)})"
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return re.escape(text.value)
    if isinstance(text, ast.Name) and text.id in texts:
        return f"(?:{'|'.join(pattern(each, {}) for each in texts[text.id])})"
    return ".+"


MESSAGES = sorted(set(messages()))


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_the_explained_messages_are_those_of_the_code(language):
    explained = [" ".join(text.split()) for text in pages.code(language, "troubleshooting", "text")]
    assert explained
    assert [text for text in explained if not any(re.fullmatch(message, text) for message in MESSAGES)] == []


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    english, chinese = (
        re.findall(r"```python\n(.*?)```", (pages.ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
        for name in ("README.md", "README_CN.md")
    )
    assert [without_comments("python", text) for text in english] == [
        without_comments("python", text) for text in chinese
    ]
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text("\n".join(english), encoding="utf-8")
    assert runpy.run_path("example.py")["model"] is not None


@pytest.fixture
def _without_log():
    """MindFormers writes its log to the standard output."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("_without_log")
@pytest.mark.parametrize("page", PROGRAMS)
def test_the_examples_of_a_guide_run(page, tmp_path, monkeypatch, capfd):
    """The examples of a page run as one program, and print the output shown below them."""
    if page in LIBRARIES:
        pytest.importorskip(LIBRARIES[page], reason=f"needs {LIBRARIES[page]}")
        capfd.readouterr()
    code = "\n\n".join(pages.code("en", page, "python"))
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(code, encoding="utf-8")  # MindSpore reads the source of a `construct`
    runpy.run_path("example.py")
    assert capfd.readouterr().out == "".join(pages.code("en", page, "output"))


@pytest.mark.parametrize("page", REFERENCE)
def test_the_examples_of_the_reference_run(page, tmp_path, monkeypatch):
    text = pages.source("en", page)
    monkeypatch.chdir(tmp_path)
    run_doctest(text, page)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_a_docstring_run(name, tmp_path, monkeypatch):
    docstring = getattr(mindspore_offload, name).__doc__
    if ">>>" not in docstring:
        pytest.skip("the docstring has no example; the page does")
    monkeypatch.chdir(tmp_path)
    run_doctest(docstring, name)


def run_doctest(text, name):
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    report = io.StringIO()
    result = doctest.DocTestRunner().run(test, out=report.write)
    assert result.attempted > 0
    assert result.failed == 0, report.getvalue()
