"""The page in a headless Chromium, where there is one: what moves on it, and that nothing in it
comes from outside or runs."""

import json
import shutil

import pytest

from minirlhf.tools import page

EVIL = "<img src='http://localhost:9/x' onerror='document.title = 1'>"


def response(size, **columns):
    names = "logprobs ref_logprobs kl rewards values raw_advantages advantages ratios".split()
    numbers = {name: [round(0.1 * t, 2) for t in range(size)] for name in names}
    texts = {"prompt": f"Say {EVIL}", "ended": True, "tokens": [EVIL] * (size - 1) + [""]}
    return numbers | texts | {"clipped": [False] * (size - 1) + [True]} | columns


@pytest.fixture
def browser_page(tmp_path):
    """A page of a run whose texts are markup, open in a browser; with the addresses that it has
    asked for and the errors of its script."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium here")
    lines = [{"step": i, "kl_coef": 0.1, "score": i / 10, "kl": 0.5} for i in range(11)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "samples.txt").write_text(f"{EVIL}\n\n")
    views = [
        {"step": 0, "clip": 0.2, "responses": [response(2), response(4)]},
        {"step": 9, "clip": 0.2, "responses": [response(3)]},
    ]
    (tmp_path / "microscope.jsonl").write_text("".join(json.dumps(v) + "\n" for v in views))
    page.main([str(tmp_path)])
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1000, "height": 900})
        requests, errors = [], []
        opened.on("request", lambda request: requests.append(request.url))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(f"file://{tmp_path}/page.html")
        yield opened, requests, errors
        browser.close()


def test_the_microscope_and_the_curves_work_and_markup_stays_text(browser_page):
    """The slider chooses the update, a button the response; both have the tokens as text."""
    opened, requests, errors = browser_page
    box = opened.locator(".microscope")
    rows, tokens = box.locator("tr"), box.locator(".response span")
    assert box.locator("label").text_content() == "update 9"
    assert (rows.count(), tokens.count()) == (1 + 3, 3)
    assert tokens.first.text_content() == EVIL and tokens.last.text_content() == "⟨end⟩"
    assert box.locator(".prompt").text_content() == f"Say {EVIL}"
    box.locator("input").fill("0")
    box.locator("button").nth(1).click()
    assert box.locator("label").text_content() == "update 0"
    assert (rows.count(), tokens.count()) == (1 + 4, 4)
    assert "clipped" in rows.last.inner_text() and "clipped" in tokens.last.get_attribute("class")
    chart = opened.locator(".chart").first
    chart.scroll_into_view_if_needed()
    place = chart.bounding_box()
    opened.mouse.move(place["x"] + place["width"] - 12, place["y"] + 80)
    assert chart.locator(".reading").text_content() == "at 10: score 1"
    assert opened.locator("img").count() == 0 and opened.title().startswith("minirlhf")
    assert errors == [] and all(url.startswith("file://") for url in requests)
