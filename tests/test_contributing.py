# SPDX-License-Identifier: Apache-2.0

"""The files and functions named on the contributing page exist."""

import re
from pathlib import Path

import pages

SOURCES = [
    path
    for folder in ("mindspore_offload", "tests")
    for suffix in ("py", "cc", "h")
    for path in (pages.ROOT / folder).rglob(f"*.{suffix}")
    if path != Path(__file__)
]


def names(language):
    return set(re.findall(r"``(.+?)``", pages.source(language, "contributing")))


def test_the_named_files_exist():
    files = {name for name in names("en") if re.search(r"[./]", name)}
    assert files
    roots = (pages.ROOT, pages.ROOT / "mindspore_offload")
    assert [name for name in sorted(files) if not any((root / name).exists() for root in roots)] == []


def test_the_named_functions_exist():
    words = set(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)))
    functions = {name for name in names("en") if not re.search(r"[./]", name)}
    assert functions
    assert {name for name in functions if not set(re.findall(r"\w+", name)) <= words} == set()


def test_both_languages_name_the_same():
    assert names("en") == names("zh")


# Imports and attributes that MindSpore does not document.
PRIVATE = (
    r"from mindspore(?:\.\w+)* import _|_pb2|GlobalComm|auto_generate|import signature|__mindspore_signature__"
    r"|\._(?:params|cells|forward_hook|forward_pre_hook)\b|\.(?:param_info|cloned_obj)\b"
)


def test_private_names_of_mindspore_are_in_one_module():
    package = (pages.ROOT / "mindspore_offload").rglob("*.py")
    assert [path.name for path in package if re.search(PRIVATE, path.read_text("utf-8"))] == ["mindspore_private.py"]
