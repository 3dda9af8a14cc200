# SPDX-License-Identifier: Apache-2.0

"""The documentation in a browser, opened from disk: in both languages, on a desktop and on a phone."""

import importlib
import json
import os
import re
import shutil

import pages
import pytest

import mindspore_offload

# In continuous integration, a missing tool is an error.
CI = bool(os.environ.get("CI"))
load = importlib.import_module if CI else pytest.importorskip  # importorskip skips these tests and says why
webdriver = load("selenium.webdriver")
WebDriverWait = load("selenium.webdriver.support.wait").WebDriverWait

TOOLS = {tool: shutil.which(tool) for tool in ("chromium", "chromedriver")}
OTHER = {"en": "zh", "zh": "en"}
API = "mindspore_offload.AdamOffload"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not all(TOOLS.values()) and not CI, reason="install chromium and chromium-driver"),
]


@pytest.fixture(scope="session")
def built():
    """Returns the folder of both languages."""
    folder = pages.ROOT / "build" / "docs"
    assert (folder / "index.html").exists(), "build the pages first, with `make docs`"
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = TOOLS["chromium"]
    quiet = ["quic", "background-networking", "component-update", "sync", "gpu"]
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")  # Chromium refuses to run as root in its sandbox
    options.add_argument("--no-first-run")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    for name in quiet:
        options.add_argument(f"--disable-{name}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(TOOLS["chromedriver"]))
    driver.set_page_load_timeout(30)
    yield driver
    driver.quit()


def wait(browser, condition):
    return WebDriverWait(browser, 20).until(condition)


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def url(built, language, page):
    return (built / language / f"{page}.html").as_uri()


def requested(browser):
    """Returns every address requested since the last call, and the addresses that failed to load."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["requestId"]: e["params"]["request"]["url"] for e in events if e["method"] == SENT}
    failed = [asked.get(e["params"]["requestId"]) for e in events if e["method"] == "Network.loadingFailed"]
    return list(asked.values()), failed


SENT = "Network.requestWillBeSent"


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_no_page_needs_the_network(browser, built, language):
    browser.get("about:blank")
    requested(browser)  # drops the requests of the browser's first page
    for page in [*pages.names(language), "search", "genindex"]:
        browser.get(url(built, language, page))
        wait(browser, lambda b: b.execute_script("return document.readyState") == "complete")
        if find(browser, ".math"):
            wait(browser, lambda b: find(b, "mjx-container"))
        asked, failed = requested(browser)
        assert [address for address in asked if not address.startswith(("file:", "data:", "blob:"))] == []
        assert failed == [], page
        assert any(address.endswith(f"{page}.html") for address in asked)


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_formulas_are_rendered(browser, built, language):
    browser.get(url(built, language, API))
    wait(browser, lambda b: find(b, "div.math mjx-container"))
    assert find(browser, "mjx-merror") == []
    (formula,) = find(browser, "div.math mjx-container")
    assert formula.size["height"] > 80  # five lines
    fonts = "return [...document.fonts].filter(f => f.family.startsWith('MJX') && f.status == 'loaded').length"
    assert wait(browser, lambda b: b.execute_script(fonts)) > 1


def set_width(browser, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )


@pytest.fixture
def phone(browser):
    set_width(browser, 390)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_no_page_is_wider_than_the_window(browser, built, language, width):
    set_width(browser, width)
    for page in pages.names(language):
        browser.get(url(built, language, page))
        if find(browser, ".math"):
            wait(browser, lambda b: find(b, "mjx-container"))
        wide, room = browser.execute_script("const d = document.documentElement; return [d.scrollWidth, d.clientWidth]")
        assert wide == room, page
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("page", ["index", API, "search"])
@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_the_language_is_switched_there_and_back(browser, built, language, page):
    browser.get(url(built, language, page))
    for there in (OTHER[language], language):
        (link,) = find(browser, ".languages a")
        link.click()
        wait(browser, lambda b, there=there: b.current_url == url(built, there, page))
        assert browser.find_element("css selector", "html").get_attribute("lang").startswith(there)


@pytest.mark.parametrize(
    ("language", "question", "answer"),
    [
        ("en", "loss scale", "loss_scale"),
        ("en", "skip_nonfinite", "clipping"),
        ("zh", "损失缩放", "loss_scale"),
        ("zh", "断点续训", "checkpoints"),
        ("zh", "逐位相同", "how_it_works"),
        ("zh", "skip_nonfinite", "clipping"),
    ],
)
def test_search_finds(browser, built, language, question, answer):
    browser.get(url(built, language, "start"))
    (box,) = find(browser, "input.sidebar-search")
    box.send_keys(question)
    box.submit()
    wait(browser, lambda b: find(b, f'#search-results li a[href*="{answer}.html"]'))


@pytest.mark.parametrize("page", ["how_it_works", "accelerators", "performance"])
@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_the_pictures_speak_the_language_of_their_page(browser, built, language, page):
    browser.get(url(built, language, page))
    pictures = find(browser, "article img")
    assert pictures
    for picture in pictures:
        assert picture.get_attribute("src").endswith(".zh.svg") == (language == "zh")
        assert wait(browser, lambda b, picture=picture: picture.get_property("naturalWidth")) > 300


@pytest.mark.parametrize("page", ["devices", "moments", "writeback"])
@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_tables_of_files_keep_their_lines(browser, built, language, page):
    browser.get(url(built, language, page))
    shown = {block.get_property("textContent").strip("\n"): block for block in find(browser, "article pre")}
    files = re.findall(r"literalinclude:: (\S+)", pages.source(language, page))
    assert files
    for file in files:
        text = (pages.folder(language) / file).read_text(encoding="utf-8").strip("\n")
        height = "const s = getComputedStyle(arguments[0]); return arguments[0].clientHeight / parseFloat(s.lineHeight)"
        lines = browser.execute_script(height, shown[text])  # the padding is less than two lines
        assert 0 <= lines - len(text.splitlines()) < 2


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_results_are_tables_whose_names_stay_in_sight(phone, built, language):
    """On a phone, which scrolls them. Their cells are the words of the file."""
    phone.get(url(built, language, "performance"))
    tables = find(phone, "table.results")
    (file,) = re.findall(r"literalinclude:: (\S+)", pages.source(language, "performance"))
    parts = (pages.folder(language) / file).read_text(encoding="utf-8").split("\n\n")
    with_columns = [part[part.index("\n  ") :] for part in parts if "\n  " in part]
    assert len(with_columns) == len(tables) > 3
    for part, table in zip(with_columns, tables):
        assert table.get_attribute("textContent").split() == part.split()
    scroll = "const box = arguments[0].parentElement; box.scrollLeft = 100; return box.scrollLeft"
    place = "return [...arguments[0].querySelectorAll('tr')].map(r => r.cells[0].getBoundingClientRect().left)"
    for table in tables:
        before = phone.execute_script(place, table)
        assert phone.execute_script(scroll, table) == 100
        assert phone.execute_script(place, table) == before


def test_code_is_copied_without_prompts_and_outputs(browser, built):
    browser.get(url(built, "en", "start"))
    blocks = {kind: find(browser, f".highlight-{kind}") for kind in ("console", "python", "text", "output", "diff")}
    assert blocks["console"]
    assert blocks["python"]
    wait(browser, lambda b: find(b, "button.copybtn"))
    for kind, of_kind in blocks.items():
        for block in of_kind:
            assert len(block.find_elements("css selector", "button.copybtn")) == (kind in ("console", "python"))


def test_the_sidebar_has_the_version(browser, built):
    browser.get(url(built, "zh", "start"))
    (brand,) = find(browser, ".sidebar-brand-text")
    assert brand.get_attribute("textContent") == f"mindspore_offload {mindspore_offload.__version__}"
