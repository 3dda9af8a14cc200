# SPDX-License-Identifier: Apache-2.0

"""Reads the pages of the documentation: their includes, signatures, parameters, errors and examples."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
LANGUAGES = ("en", "zh")
_INCLUDE = re.compile(r"^( *)\.\. include:: (\S+)$", re.MULTILINE)
_BLOCK = re.compile(r"^( *)\.\. code-block:: (\S+)\n\n((?:\1 {4}.*\n|\n)+)", re.MULTILINE)
_PARAMETER = re.compile(r"^ *- \*\*(\w+)\*\* \(([^)]*)\)((?:.|\n(?! *- \*\*| *\*\*))*)", re.MULTILINE)
_ERROR = re.compile(r"^ *- \*\*(\w+Error)\*\* - ((?:.|\n(?! *- | *$))*)", re.MULTILINE)
_COLON = "[:\uff1a]"  # the second one is Chinese
_DEFAULT = re.compile(rf"(?:Default|默认值){_COLON}\s*``(.*?)``")


def folder(language):
    return ROOT / f"docs_{language}"


def names(language):
    """Returns the names of all pages, without suffix."""
    return sorted(path.stem for path in folder(language).glob("*.rst"))


def source(language, page):
    return (folder(language) / f"{page}.rst").read_text(encoding="utf-8")


def included(text):
    """Returns the paths that a text includes, in order."""
    return [path for _, path in _INCLUDE.findall(text)]


def expanded(language, page):
    """Returns a page with its includes expanded, as Sphinx reads it."""

    def fill(match):
        text = (folder(language) / match[2]).read_text(encoding="utf-8")
        return textwrap.indent(_INCLUDE.sub(fill, text), match[1])

    return _INCLUDE.sub(fill, source(language, page))


def signature(text):
    """Returns the signature that a page documents, without parentheses; None if it documents no class or function."""
    found = re.search(r"^\.\. py:(?:class|function):: [\w.]+\((.*)\)$", text, re.MULTILINE)
    return found and found[1]


def section(text, *titles):
    """Returns the text after one of the bold titles, up to the next bold title."""
    found = re.search(rf"\*\*(?:{'|'.join(titles)}){_COLON}\*\*\n((?:.|\n(?! *\*\*))*)", text)
    return found[1] if found else ""


def parameters(text):
    """Returns the types and the default (as written, or None) of each documented parameter, by name."""
    text = section(text, "Parameters", "参数") + section(text, "Keyword Arguments", "关键字参数")
    return {name: (types, (_DEFAULT.findall(rest) or [None])[-1]) for name, types, rest in _PARAMETER.findall(text)}


def errors(text):
    """Returns the class of each documented error and the arguments named in its line."""
    return [(name, arguments(line)) for name, line in _ERROR.findall(section(text, "Raises", "异常"))]


def errors_of_docstring(docstring):
    """Returns the same as `errors`, for a docstring."""
    found = re.search(r"^Raises:\n((?: {4,}.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    lines = re.findall(r"^ {4}(\w+Error): ((?:.|\n {5,})*)", found[1], re.MULTILINE) if found else []
    return [(name, arguments(line)) for name, line in lines]


def arguments(line):
    return sorted(re.findall(r"(?<!`)`(\w+)`(?!`)", line))


def blocks(language, page):
    """Returns the code blocks of a page, as pairs of kind and text."""
    return [
        (kind, textwrap.dedent(text).strip("\n") + "\n") for _, kind, text in _BLOCK.findall(source(language, page))
    ]


def code(language, page, kind):
    """Returns the text of the code blocks of one kind."""
    return [text for found, text in blocks(language, page) if found == kind]
