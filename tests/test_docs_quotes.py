# SPDX-License-Identifier: Apache-2.0

"""The pages quote what was measured, and link to pages that have what the sentence is about."""

import re
import shlex

import pages
import pytest

from mindspore_offload.commands import main

BENCH = pages.ROOT / "docs" / "bench" / "amd-epyc-family-25-model-1.txt"
READMES = {"en": "README.md", "zh": "README_CN.md"}
# Their milliseconds, and their gigabytes with a decimal point, were measured by the benchmark.
MEASURED = ["README", "devices", "how_it_works", "moments", "performance"]

_DIRECTIVE = re.compile(
    r"^( *)\.\. (?:code-block|literalinclude|image|math|toctree)::.*\n(?:\1 +\S.*\n|\n)*", re.MULTILINE
)
_FENCE = re.compile(r"```.*?```", re.DOTALL)
_BREAK = re.compile(r"\n\s*\n|\n *(?:\* )?- |\n *\d+\. |\n\|")  # between paragraphs, items and cells
_SENTENCE = re.compile(r"(?<=[.;!?])\s+|(?<=[\u3002\uff1b\uff01\uff1f])")
_LINK = re.compile(r"`[^`<]+ <([\w.]+)\.rst>`__|:doc:`([\w.]+)`|\]\(docs_\w\w/([\w.]+)\.rst\)")
_LITERAL = re.compile(r"``([^`]+)``|(?<!`)`([\w.=\"]+)`(?!`)")


def text_of(language, page):
    if page == "README":
        return (pages.ROOT / READMES[language]).read_text(encoding="utf-8")
    return pages.expanded(language, page)


def sentences(language, page):
    """Yields the sentences of a page or of README, without blocks of code, formulas and pictures."""
    text = _FENCE.sub("\n", _DIRECTIVE.sub("\n", text_of(language, page)))
    for block in _BREAK.split(text):
        yield from _SENTENCE.split(" ".join(block.split()))


def without_subject(language, page):
    """Yields each link whose target has no word of the code in the link's sentence: (target, words)."""
    for sentence in sentences(language, page):
        targets = [next(filter(None, found)) for found in _LINK.findall(sentence)]
        literals = _LITERAL.findall(_LINK.sub("", sentence))
        words = {word for literal in literals for word in re.findall(r"[A-Za-z_]\w{3,}", "".join(literal))}
        for target in targets:
            if words and not any(word in text_of(language, target) for word in words):
                yield target, sorted(words)


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_the_target_of_a_link_has_a_word_of_its_sentence(language):
    wrong = {page: list(without_subject(language, page)) for page in [*pages.names(language), "README"]}
    assert {page: found for page, found in wrong.items() if found} == {}


def test_a_link_to_another_page_is_noticed(monkeypatch):
    sources = {
        "page": "``parallel_optimizer``: not supported\n(`Threads <threads.rst>`__). ``msrun``: see :doc:`devices`.",
        "threads": "``msrun`` starts one worker per device.",
        "devices": "``msrun --worker_num=2``",
    }
    monkeypatch.setattr(pages, "expanded", lambda language, page: sources[page])
    assert list(without_subject("en", "page")) == [("threads", ["parallel_optimizer"])]


def numbers(text):
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def rounds_to(quoted, measured):
    """True if a number of the pages is one of the measured ones, rounded as it is written."""
    digits = len(quoted.partition(".")[2])
    half = 0.5 * 10**-digits
    return any(abs(float(quoted.replace(",", "")) - value) <= half * 1.001 for value in measured)


def row(title, name):
    """Returns the median of an optimizer in the table of the benchmark with this title."""
    table = next(part for part in BENCH.read_text().split("\n\n") if part.startswith(title))
    return next(numbers(line.removeprefix(name))[0] for line in table.splitlines() if re.match(rf"{name} {{2}}", line))


def measured():
    """Returns the numbers in the files of the benchmark, and those that the pages compute of them."""
    small = "One step, 1,228,800 parameters"
    beyond = row(small, "AdamOffload") - row(small, "bare loop")
    return [*numbers(BENCH.read_text()), beyond, 600 * beyond / 1200]  # the pages: "5.7 ms more", "about 3 ms less"


@pytest.mark.parametrize("page", MEASURED)
@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_quoted_times_and_sizes_are_those_measured(language, page):
    text = " ".join(sentences(language, page))
    times = re.findall(r"(\d[\d,]*(?:\.\d+)?) ?(?:ms\b|毫秒)", text)
    sizes = [] if page == "README" else re.findall(r"(\d+\.\d+) GB\b", text)  # README has computed ones
    assert times or page in ("devices", "how_it_works")
    found = measured()
    assert [time for time in times if not rounds_to(time, found)] == []
    if page == "how_it_works":
        assert [size for size in sizes if not rounds_to(size, [value / 1e3 for value in found])] == []


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_quoted_percentages_of_bfloat16_moments_are_those_measured(language):
    large = "One step, 67,108,864 parameters in 16 tensors, 2 threads"
    text = " ".join(sentences(language, "moments"))
    for name, pattern in {
        "AdamOffload": r"(\d+) % faster|快(\d+)%",
        "AdamOffload, bfloat16": r"(\d+) % slower|慢(\d+)%",
    }.items():
        change = row(large, f"{name}, bfloat16 moments") / row(large, name) - 1
        (quoted,) = ("".join(found) for found in re.findall(pattern, text))
        assert int(quoted) == round(abs(change) * 100)


def test_the_trainings_compare_as_the_pages_say():
    """The mean differences are small beside the variation from seed to seed, and beside their standard errors."""
    tables = (pages.ROOT / "docs" / "moments.txt").read_text(encoding="utf-8").split("\n\n")
    assert len(tables) == 2
    signs = []
    for table in tables:
        (spread,) = re.findall(r"seed to seed ([\d.]+)", table)
        found = re.findall(r"^(\w+) moments .* mean difference ([+-])([\d.]+), standard error ([\d.]+)", table, re.M)
        means = {dtype: (float(mean) / float(spread), float(mean) / float(error)) for dtype, _, mean, error in found}
        for dtype, most, most_errors in (("bfloat16", 1 / 100, 1), ("uint8", 1 / 20, 2)):
            assert means[dtype][0] < most
            assert means[dtype][1] < most_errors
        signs.append(found[1][1])
    assert signs == ["-", "+"]


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_readme_shows_what_estimate_prints(language, capsys):
    (block,) = re.findall(r"\$ python -m mindspore_offload (estimate .*?)```", text_of(language, "README"), re.DOTALL)
    command, *shown = block.replace("\\\n", " ").split("\n...\n")
    assert main([*shlex.split(command), "--host-gb-s", "200"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert shown
    assert all(" ".join(part.split()) in printed for part in shown)
