# SPDX-License-Identifier: Apache-2.0

"""The settings that both languages of the documentation share; each conf.py adds the language and the title."""

import itertools
import os
import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.locale import _ as translated
from sphinx.search.en import SearchEnglish

HERE = Path(__file__).parent

project = "mindspore_offload"
copyright = "the authors of mindspore_offload"
exclude_patterns = ["_partials"]
# The formulas are set in the browser by a MathJax that is copied into the pages, so nothing comes from the network.
extensions = ["sphinx.ext.mathjax", "sphinx-mathjax-offline", "sphinx_copybutton"]
copybutton_prompt_text = "$ "
# Nobody copies an output or a comparison.
copybutton_selector = "div:not(.highlight-output, .highlight-text, .highlight-diff) > div.highlight > pre"

html_theme = "furo"
release = re.search(r'__version__ = "(.*)"', (HERE.parent / "mindspore_offload" / "_version.py").read_text())[1]
html_title = f"{project} {release}"
# The workflow that publishes the pages knows where the repository is.
html_context = {"repository": os.environ.get("REPOSITORY")}
pygments_style, pygments_dark_style = "tango", "monokai"
templates_path = [str(HERE / "_templates")]
html_static_path = [str(HERE / "_static")]
html_css_files = ["docs.css"]
# Only what is not empty is shown; the template fills it with the languages.
html_theme_options = {"announcement": "languages", "top_of_page_buttons": []}
html_show_sourcelink = False
html_copy_source = False

_HAN = r"[\u3400-\u9fff]"
_PUNCTUATION = r"[\u3001\u3002\u201c\u201d\uff01-\uff1f]"


class SearchPairs(SearchEnglish):
    """Chinese is found by the pairs of characters in it; English words in it, as in English.

    The browser, which takes apart what is asked for, has no dictionary, so a text is indexed without one as well.
    """

    lang = "zh"
    js_splitter_code = f"""
function splitQuery(query) {{
  const words = query.match(/{_HAN}+|[a-zA-Z0-9_]+/g) || [];
  const pairs = (word) => Array.from(word.slice(1), (next, i) => word[i] + next);
  return words.flatMap((word) => word.length > 1 && /{_HAN}/.test(word) ? pairs(word) : [word]);
}}
"""

    def split(self, input):
        words = []
        for word in re.findall(f"{_HAN}+|[a-zA-Z0-9_]+", input):
            is_chinese = re.match(_HAN, word)
            words += [*word, *map("".join, zip(word, word[1:]))] if is_chinese else [word]
        return words


def without_spaces(app, doctree):
    """Chinese has none: not where a line of the source ends, nor beside markup in Chinese, nor beside punctuation."""
    if not app.config.language.startswith("zh"):
        return
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, (nodes.FixedTextElement, nodes.literal, nodes.math, nodes.raw)):
            at = text.parent.index(text)
            before, after = (neighbour.astext() for neighbour in (_sibling(text, at - 1), _sibling(text, at + 1)))
            context = f"{before[-1:]}{text}{after[:1]}"
            chinese = rf"(?<={_HAN})\s+(?={_HAN})|(?<={_PUNCTUATION})\s+|\s+(?={_PUNCTUATION})"
            joined = re.sub(chinese, "", context)
            text.parent.replace(text, nodes.Text(joined[len(before[-1:]) : len(joined) - len(after[:1])]))


def _sibling(node, at):
    return node.parent[at] if 0 <= at < len(node.parent) else nodes.Text("")


def link_pages(app, doctree):
    """Makes a link to the source of a page one to the page.

    Where a repository is read in the browser, the links between the sources work as they are.
    """
    for link in list(doctree.findall(nodes.reference)):
        page = re.fullmatch(r"([\w.]+)\.rst", link.get("refuri", ""))
        if page:
            link.replace_self(
                pending_xref(
                    "",
                    nodes.inline("", link.astext()),
                    refdomain="std",
                    reftype="doc",
                    refexplicit=True,
                    reftarget=page[1],
                    refdoc=app.env.docname,
                    refwarn=True,
                )
            )


def show_results(app, doctree):
    """Makes tables of the benchmark's file, which a phone can scroll with the first column fixed."""
    for block in list(doctree.findall(nodes.literal_block)):
        if "/docs/bench/" in block.get("source", ""):
            block.replace_self([node for part in block.astext().split("\n\n") for node in _results(part.splitlines())])


def _results(lines):
    """Returns the lines, or a title and a table if there is one: the names of its columns begin with spaces."""
    title = list(itertools.takewhile(lambda line: not line.startswith("  "), lines))
    if len(title) == len(lines):
        return [nodes.line_block("", *(nodes.line("", line) for line in title))]
    rows = [re.split(r" {2,}| (?=\[)", line.rstrip()) for line in lines[len(title) :]]
    head, *body = (nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in cells)) for cells in rows)
    columns = [nodes.colspec(colwidth=1) for _ in rows[0]]
    group = nodes.tgroup("", *columns, nodes.thead("", head), nodes.tbody("", *body), cols=len(columns))
    return [nodes.rubric("", " ".join(title), classes=["results"]), nodes.table("", group, classes=["results"])]


# The theme's texts that it has no Chinese for.
_THEME_IN_CHINESE = {
    "Next": "下一页",
    "Previous": "上一页",
    "Home": "首页",
    "On this page": "本页内容",
    "Back to top": "回到顶部",
    "Repository": "代码仓",
}


def translate_theme(app, pagename, templatename, context, doctree):
    if app.config.language.startswith("zh"):
        context["_"] = context["gettext"] = lambda text: _THEME_IN_CHINESE.get(text.strip()) or translated(text)


def setup(app):
    app.add_search_language(SearchPairs)
    app.connect("html-page-context", translate_theme)
    app.connect("doctree-read", without_spaces)
    app.connect("doctree-read", link_pages)
    app.connect("doctree-read", show_results)
