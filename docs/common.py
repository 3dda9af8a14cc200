# SPDX-License-Identifier: Apache-2.0

"""The settings that both languages of the documentation share; each conf.py adds the language and the title."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.locale import _ as translated
from sphinx.search.en import SearchEnglish

HERE = Path(__file__).parent

project = "mindspore_offload"
copyright = "the authors of mindspore_offload"
exclude_patterns = ["_partials"]
# The formulas are set in the browser by a MathJax that is copied into the pages, so nothing comes from the network.
extensions = ["sphinx.ext.mathjax", "sphinx-mathjax-offline"]

html_theme = "furo"
html_title = project
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
    """Chinese has none: not where a line of the source ends, nor between its punctuation and the markup beside it."""
    if not app.config.language.startswith("zh"):
        return
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, (nodes.FixedTextElement, nodes.literal, nodes.math, nodes.raw)):
            joined = re.sub(rf"(?<={_HAN})\n(?={_HAN})|(?<={_PUNCTUATION})\s+|\s+(?={_PUNCTUATION})", "", text)
            text.parent.replace(text, nodes.Text(joined))


# The theme's texts that it has no Chinese for.
_THEME_IN_CHINESE = {
    "Next": "下一页",
    "Previous": "上一页",
    "Home": "首页",
    "On this page": "本页内容",
    "Back to top": "回到顶部",
}


def translate_theme(app, pagename, templatename, context, doctree):
    if app.config.language.startswith("zh"):
        context["_"] = context["gettext"] = lambda text: _THEME_IN_CHINESE.get(text.strip()) or translated(text)


def setup(app):
    app.add_search_language(SearchPairs)
    app.connect("html-page-context", translate_theme)
    app.connect("doctree-read", without_spaces)
