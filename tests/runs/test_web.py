"""`minirlhf web` in headless Chromium: keys, streaming, a run's page; nothing is asked of another
machine, and no text is markup. Skipped without Gradio, Playwright or Chromium."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from recorder import save_policy, write_records

from minirlhf.formats import labels

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PARTS = [CHROMIUM, *map(importlib.util.find_spec, ("gradio", "playwright"))]
pytestmark = pytest.mark.skipif(not all(PARTS), reason="needs gradio, playwright and chromium")
ROOT = Path(__file__).parents[2]
EVIL = '<img src="http://192.0.2.1/x" onerror="window.hacked=1"><b>b</b> **bold** $$x$$'
SECONDS = 60_000  # milliseconds to wait, on a machine that is busy


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SLOWLY = """
import time
from minirlhf.run import config
from minirlhf.tools import answer, web
step = answer.Answer.__next__
answer.Answer.__next__ = lambda self: (time.sleep(0.01), step(self))[1]
config.run(web.main)
"""


class Server:
    """`minirlhf web` as a process of its own, in which a token takes the time that it takes a
    larger model."""

    def __init__(self, folder):
        self.port, self.file = free_port(), folder / "labels.jsonl"
        self.address = f"http://127.0.0.1:{self.port}/"
        flags = {"runs": folder / "out", "data": folder / "responses.jsonl", "out": self.file}
        flags |= {"labeller": "ada", "port": self.port, "threads": 1}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-c", SLOWLY, *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline().startswith(f"open {self.address[:-1]} in a browser")

    def end(self, number):
        """Send a signal. Returns the exit code and what else was printed."""
        self.process.send_signal(number)
        output = self.process.communicate(timeout=60)[0]
        return self.process.returncode, output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs to label, two checkpoints, a run with metrics and samples: markup in all of them."""
    folder = tmp_path_factory.mktemp("web")
    pairs = [
        {"prompt": f"{EVIL} Q{i}?\n", "responses": [f"a{i} {EVIL}", f"b{i}"]} for i in range(9)
    ]
    write_records(folder / "responses.jsonl", pairs)
    for stage, seed in (("sft", 4), ("ppo", 7)):
        place = folder / "out" / stage
        save_policy(place, seed=seed)
        flags = {"data": "", "max_new_tokens": 26}  # in which ppo does not end
        record = {"stage": stage, "flags": flags, "inputs": {}, "data": EVIL}
        (place / "config.json").write_text(json.dumps(record))
        write_records(place / "metrics.jsonl", [{"step": i, "loss": 3 - i} for i in range(3)])
        (place / "samples.txt").write_text(f"after 3\n{EVIL}\n\n")
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        flags = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """visit(server) -> a page, which is left at the end, unless it was left before."""
    pages = []

    def open_page(server):
        page = browser.new_page()
        page.set_default_timeout(SECONDS)
        page.address, page.asked, page.failures = server.address, [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        page.goto(server.address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        if not page.is_closed():
            leave(page)


def leave(page):
    """Close a page, which has asked its server alone, and obeyed no markup of the texts."""
    own = (page.address, "data:", "about:srcdoc")
    assert [url for url in page.asked if not url.startswith(own)] == page.failures == []
    assert page.address in page.asked
    for frame in page.frames:
        marks = "[window.hacked === undefined, document.querySelectorAll('img, b').length]"
        assert frame.evaluate(marks) == [True, 0]
    page.close()


@pytest.fixture(scope="module")
def server(folder):
    """Ctrl-C ends it in one line."""
    server = Server(folder)
    yield server
    assert server.end(signal.SIGINT) == (0, f"\nclosed; the answers are in {server.file}\n")


def heading(page, text):
    page.locator("#heading .heading", has_text=text).wait_for()


def start(page, place):
    page.get_by_role("button", name="Start").click()
    heading(page, f"question {place} of 9")


def test_pairs_are_labelled_by_keys_and_no_answer_is_lost_to_kill_9(folder, server, visit):
    """A choice, a tie, an undo, a flag and a written answer; then the process is killed, and
    another one goes on with the next question. The second click of a double click is none."""
    killed = Server(folder)
    try:
        page = visit(killed)
        start(page, 1)
        assert EVIL in page.locator("#prompt").inner_text()
        for key, place in (("1", 2), ("t", 3), ("z", 2), ("2", 3)):
            page.keyboard.press(key)
            heading(page, f"question {place} of 9")
        for key in "r2w":
            page.keyboard.press(key)
        page.keyboard.type("better 1tz")
        page.keyboard.press("Enter")
        assert page.locator("#flags-2 input").first.is_checked()
        page.keyboard.press("1")
        heading(page, "question 4 of 9")
        page.locator("#press-2").click()
        heading(page, "question 5 of 9")
        page.mouse.down(click_count=2)
        page.mouse.up(click_count=2)
        page.wait_for_timeout(500)
        leave(page)
    finally:
        code, _ = killed.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    stored = labels.read_labels(killed.file)
    assert [record.ranks for record in stored] == [[0, 1], [1, 0], [1, 2, 0], [1, 0]]
    assert stored[2].flags == [[], ["rude"], []] and stored[2].responses[2] == "better 1tz"
    start(visit(server), 5)
    assert labels.read_labels(server.file) == stored


def test_two_checkpoints_answer_side_by_side_token_by_token(server, visit):
    """The message is shown as it is; one answer is seen while it grows."""
    page, mark = visit(server), "<img src=x> **b**"
    page.get_by_role("tab", name="Chat").click()
    page.get_by_label("Beside it").click()
    page.get_by_role("option", name="sft", exact=True).click()
    page.evaluate(
        """() => { window.seen = new Set();
        new MutationObserver(() => document.querySelectorAll("#talk-0 .it").forEach(
            (answer) => window.seen.add(answer.textContent)))
        .observe(document.body, {subtree: true, characterData: true}); }"""
    )
    page.locator("#message textarea").fill(mark)
    page.keyboard.press("Enter")
    page.locator("#talk-note .note", has_text="ppo: cut off after 26 tokens").wait_for()
    assert [page.locator(f"#talk-{k} .you").inner_text() for k in (0, 1)] == [mark, mark]
    assert page.evaluate("window.seen.size") > 2
    page.get_by_role("button", name="New").click()
    page.locator("#talk-1 .it").wait_for(state="detached")


def test_a_runs_curves_and_samples_stand_in_a_frame(server, visit):
    """The samples as text, the curve as a line; the choice of another run shows that one."""
    page = visit(server)
    page.get_by_role("tab", name="Run").click()
    frame = page.frame_locator("#view iframe")
    frame.locator("svg.chart path.line").first.wait_for()
    assert EVIL in frame.locator("details pre").text_content()
    first = frame.locator("h2").inner_text()
    page.get_by_label("Run", exact=True).last.click()
    other = {"sft": "ppo", "ppo": "sft"}[first]
    page.get_by_role("option", name=other, exact=True).click()
    frame.locator("h2", has_text=other).wait_for()


def test_only_this_machine_is_served_and_the_page_may_ask_nobody_else(server, visit):
    """The port is open on the loopback alone; under another machine's name, which a foreign page
    could have, there is no answer; and the browser refuses a request to elsewhere."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    lines += Path("/proc/net/tcp6").read_text().splitlines()[1:]
    addresses = {line.split()[1] for line in lines if line.split()[3] == "0A"}
    assert [a for a in addresses if a.endswith(f":{server.port:04X}")] == [
        f"0100007F:{server.port:04X}"
    ]
    request = urllib.request.Request(server.address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    refused = visit(server).evaluate(
        """() => new Promise((resolve) => {
        addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
        setTimeout(() => resolve("nobody refused it"), 20000);
        fetch("http://192.0.2.1/").catch(() => null); })"""
    )
    assert refused.startswith("http://192.0.2.1")
