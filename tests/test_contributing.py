# SPDX-License-Identifier: Apache-2.0

"""The files and functions named on the contributing page exist."""

import re
from pathlib import Path

import pages
import pytest

SOURCES = [
    path
    for folder in ("mindspore_offload", "tests")
    for suffix in ("py", "cc", "h")
    for path in (pages.ROOT / folder).rglob(f"*.{suffix}")
    if path != Path(__file__)
]


def names(language):
    return set(re.findall(r"``(.+?)``", pages.source(language, "contributing")))


@pytest.mark.parametrize("name", sorted(names("en")))
def test_the_named_file_or_function_exists(name):
    if re.search(r"[./]", name):
        assert any((root / name).exists() for root in (pages.ROOT, pages.ROOT / "mindspore_offload"))
    else:
        assert any(re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) for path in SOURCES)


def test_both_languages_name_the_same():
    assert names("en") == names("zh")
