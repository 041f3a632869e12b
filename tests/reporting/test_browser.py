"""The page in a real browser: it renders, says nothing, fetches nothing, and fits a laptop, a phone and paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.cli import group
from tests.reporting import runs
from tests.reporting.chromium import Browser, executable
from tests.reporting.test_rendering import EVIL, LONG, everywhere

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium (apt-get install chromium)"),
    pytest.mark.xdist_group("browser"),
]

LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}
OVERFLOWING = """
[...document.body.querySelectorAll('*')].filter(each => !each.closest('.scroll') &&
    each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section in it: two targets, a diagnosis, a search, measurements on two boards."""
    folder = tmp_path_factory.mktemp("full")
    manifest = runs.write_run(folder)
    runs.diagnosed(manifest["results"][0])
    accuracy = manifest["results"][0]["accuracy"]
    manifest["reductions"] = [{"stage": "192 x 192", "accuracy": accuracy, "details": {"what": ""}}]
    runs.save(folder, manifest)
    runs.save_bench(folder, "rock", runs.bench("deit-rk3588-int8.rknn"))
    runs.save_bench(folder, "pi", runs.bench("deit-tflite-int8.tflite", how="measured on Raspberry Pi 5"))
    assert group.run(["report", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with hostile and endless names everywhere."""
    folder = tmp_path_factory.mktemp("hostile")
    manifest = runs.write_run(folder, names=[f"{index}{EVIL}.jpg" for index in range(200)], labels=[LONG] * 4)
    runs.diagnosed(manifest["results"][0])
    runs.save(folder, everywhere(manifest, EVIL + LONG))
    runs.save_bench(folder, "rock", everywhere(runs.bench("deit-rk3588-int8.rknn"), EVIL + LONG))
    assert group.run(["report", str(folder)]) == 0
    return folder / "report.html"


def fetched(browser: Browser) -> list[str]:
    """What was asked for beside the page itself and what it contains."""
    return [url for url in browser.requests() if not url.startswith(("data:", "file:"))]


def test_the_page_is_silent_and_fetches_nothing(browser: Browser, page: Path) -> None:
    seconds = browser.open(page, **LAPTOP)
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.value("document.images.length") > 0
    assert browser.value("[...document.images].every(each => each.naturalWidth > 0)")
    assert seconds < 5  # a tenth of a second on a quiet machine


def test_the_verdict_needs_no_scrolling_on_a_laptop(browser: Browser, page: Path) -> None:
    browser.open(page, **LAPTOP)
    assert browser.value("document.querySelector('#verdict').getBoundingClientRect().bottom") <= 768
    shown = browser.value("document.querySelector('#verdict').innerText")
    for words in (
        "What was lost",
        "What was gained",
        "Can I ship it?",
        "vendor simulator",
        "n\u00a0=\u00a0200",
    ):
        assert words in shown


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, size: dict[str, int]) -> None:
    browser.open(page, **size)
    assert browser.value("document.documentElement.scrollWidth") == size["width"]
    assert browser.value(OVERFLOWING) == []


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_hostile_names_run_nothing_and_widen_nothing(
    browser: Browser, hostile_page: Path, size: dict[str, int]
) -> None:
    browser.open(hostile_page, **size)
    assert browser.complaints() == []
    assert fetched(browser) == []
    assert not any(event.get("method") == "Page.javascriptDialogOpening" for event in browser.events)
    assert browser.value("document.documentElement.scrollWidth") == size["width"]


def test_dark_is_dark_and_light_is_light(browser: Browser, page: Path) -> None:
    contrast = """(() => {
        const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number); return r + g + b };
        const style = getComputedStyle(document.body);
        return light(style.backgroundColor) - light(style.color);
    })()"""
    browser.open(page, **LAPTOP)
    assert browser.value(contrast) > 450
    browser.open(page, **LAPTOP, dark=True)
    assert browser.value(contrast) < -450


def test_paper_holds_what_the_screen_folds_away(browser: Browser, page: Path) -> None:
    browser.open(page, **LAPTOP)
    assert browser.value("[...document.querySelectorAll('details')].every(each => !each.open)")
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    browser.page("Emulation.setEmulatedMedia", media="print")
    visible = "[...document.querySelectorAll('details table')].every(each => each.checkVisibility())"
    assert browser.value(visible)
    browser.page("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("count", [1, 3, 6])
def test_any_number_of_artefacts_fits(browser: Browser, tmp_path: Path, count: int) -> None:
    targets = ("rk3588", "tflite", "rk3566", "rk3576", "onnx", "rk3568")[:count]
    runs.write_run(tmp_path / "run", targets=targets)
    assert group.run(["report", str(tmp_path / "run")]) == 0
    page = tmp_path / "run" / "report.html"
    browser.open(page, **LAPTOP)
    assert browser.value("document.querySelector('#verdict').getBoundingClientRect().top") < 120
    answers = browser.value("[...document.querySelectorAll('#verdict .badge')].map(each => each.innerText)")
    assert answers == ["Can\u2019t tell"] * count
    assert browser.value(OVERFLOWING) == []


def test_a_full_size_run_stays_small_and_opens_at_once(browser: Browser, tmp_path: Path) -> None:
    manifest = runs.write_run(tmp_path, n=400, lost=200, size=224)
    for result in manifest["results"]:
        runs.diagnosed(result, blocks=12)
    table = manifest["results"][0]["details"]["placement"]
    table["layers"] = [{**table["layers"][0], "index": index} for index in range(400)]
    runs.save(tmp_path, manifest)
    assert group.run(["report", str(tmp_path)]) == 0
    page = tmp_path / "report.html"
    assert page.stat().st_size < 5_000_000
    browser.open(page, **LAPTOP)
    spent = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    assert browser.value(spent) < 3000  # milliseconds; 150 on a quiet machine
    assert browser.value("document.images.length") == 36
