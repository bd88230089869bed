"""The specification of tools/page.py: one file that asks for nothing, and takes no text for
markup."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from minirlhf.run.config import InputError
from minirlhf.tools import page

EVIL = "</script><script>alert(1)</script><img src=http://x onerror=alert(1)>\u2028&"
TOKENS = {
    name: [0.1, None]
    for name in "logprobs ref_logprobs kl rewards values raw_advantages advantages ratios".split()
}
TOKENS |= {"tokens": [EVIL, ""], "clipped": [False, True], "rewards": [None, 0.1]}


@pytest.fixture
def run(tmp_path):
    """OUT/ppo of a run on own data, whose texts are markup."""
    folder = tmp_path / "out" / "ppo"
    folder.mkdir(parents=True)
    record = {"stage": "ppo", "data": EVIL, "flags": {"data": EVIL, "updates": 2}}
    (folder / "config.json").write_text(json.dumps(record))
    numbers = {"score": 0.5, "kl": None, "kl_coef": 0.1, "eval_score": 1.0, "sft_score": 0.0}
    lines = [{"step": i} | numbers | {"eval_kl": 1.0, "sft_kl": 0.0} for i in range(2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "samples.txt").write_text(f"after 1 updates\nold\n\nafter 2 updates\n{EVIL}\n\n")
    view = {"step": 0, "clip": 0.2, "responses": [{"prompt": EVIL, "ended": True} | TOKENS]}
    (folder / "microscope.jsonl").write_text(json.dumps(view) + "\n")
    bins = [{"confidence": 0.75, "accuracy": 0.5, "pairs": 4}]
    (folder / "calibration.json").write_text(json.dumps(bins))
    return folder


class Elements(HTMLParser):
    """The elements of a page with their attributes, the texts of its scripts, and all other
    text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.text, self.inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data)
        else:
            self.text += data


def written(folder, *argv):
    page.main([str(folder), *argv])
    return (folder / "page.html").read_text()


def test_the_page_asks_for_nothing_outside_itself(run):
    """No address, no file; and a browser that obeys the policy would not fetch one."""
    html = Elements(written(run))
    for tag, attributes in html.elements:
        assert tag not in ("link", "img", "iframe", "object", "base", "form")
        names = {"src", "action", "data", "srcset", "xlink:href"}
        assert not names & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")
    policies = [a["content"] for tag, a in html.elements if a.get("http-equiv")]
    assert policies == [page.POLICY] and "default-src 'none'" in page.POLICY
    style, script = (page.Path(page.__file__).with_name(f"page.{x}") for x in ("css", "js"))
    assert not re.search(r"url\(|@import", style.read_text())
    assert not re.search(r"fetch|XMLHttp|import\(|innerHTML|document\.write", script.read_text())


def test_markup_from_data_or_from_a_model_is_shown_as_text(run):
    """In samples, flags and tokens. The scripts of the page are its own and the data."""
    html = Elements(written(run))
    assert sum(tag == "script" for tag, _ in html.elements) == len(html.scripts) == 2
    assert not [a for tag, a in html.elements if "onerror" in a]
    assert html.text.count(EVIL) == 3  # the line on the data, the flag, the samples
    [view] = json.loads(html.scripts[0])
    assert view["responses"][0]["tokens"] == [EVIL, ""] and "<" not in html.scripts[0]


def test_the_page_has_curves_calibration_samples_and_what_the_doctor_says(run):
    html = Elements(written(run))
    labels = [a["aria-label"].split(",")[0] for tag, a in html.elements if tag == "svg"]
    assert labels == ["score", "KL from the reference", "score against KL", "calibration"]
    assert "after 2 updates" in html.text and "after 1 updates" not in html.text
    assert "The doctor finds nothing wrong." in html.text and "2 steps on" in html.text


def test_all_stages_in_a_folder_are_one_page_the_last_stage_first(run):
    """Also where a run is without config.json, samples and microscope, or has damaged ones."""
    for stage, content in (("rm", "{"), ("sft", "[]")):
        (run.parent / stage).mkdir()
        (run.parent / stage / "metrics.jsonl").write_text('{"step": 0, "loss": 0.5}\n')
        for name in ("config.json", "calibration.json", "microscope.jsonl"):
            (run.parent / stage / name).write_text(content)
    html = Elements(written(run.parent))
    sections = [a["id"] for tag, a in html.elements if tag == "section"]
    assert sections == ["ppo", "rm", "sft"]
    assert [a["href"] for tag, a in html.elements if tag == "a"] == ["#ppo", "#rm", "#sft"]


def test_the_file_may_be_named_and_a_folder_without_a_run_is_refused(run, tmp_path, refused):
    page.main([str(run), "--html", str(tmp_path / "x.html")])
    assert (tmp_path / "x.html").exists() and not (run / "page.html").exists()
    (run / "metrics.jsonl").write_text("")
    shutil.rmtree(run.parent / "rm", ignore_errors=True)
    message = refused(page.main, [str(run)], tmp_path)
    assert f"{run}: no metrics.jsonl with a line in it" in message
    with pytest.raises(InputError, match="nowhere"):
        page.main([str(tmp_path / "nowhere")])


def test_what_is_not_finite_is_null_in_the_data(run):
    """NaN would be no JSON, and the script of the page would stop."""
    assert "NaN" not in written(run)
    line = json.loads((run / "microscope.jsonl").read_text())
    assert line["responses"][0]["values"] == [0.1, None]


def test_page_and_doctor_are_commands(run):
    """Each as a process: the files beside page.py are found, and the first line is the run's."""
    root = page.Path(page.__file__).parents[2]
    for name, start in (("page", "the page is"), ("doctor", f"{run}, 2 steps: nothing wrong")):
        words = [sys.executable, "-m", "minirlhf", name, str(run)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=root)
        assert done.returncode == 0 and done.stdout.startswith(start), done.stderr
    assert (run / "page.html").exists()
