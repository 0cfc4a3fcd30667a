"""The page that `wm report` writes: complete without any other file, and honest about what was not measured."""

import json
import re
from html.parser import HTMLParser

import pytest

from agents.cli import main
from agents.report import write_report
from tests.learning.tools import train_tiny
from worldmodels.errors import CheckpointError

CARD = {
    "gap_auroc": 0.99,
    "sigma_error": 0.3,
    "spearman_by_horizon": {"1": 0.8, "5": 0.2, "20": None},
    "coverage_90_by_horizon": {"1": 0.9},
    "mace": 0.01,
    "ood": {"noise": {"auroc": 0.97, "fpr95": 0.1, "delay_steps": 3}, "offset": {"auroc": 0.6, "delay_steps": None}},
    "state_coverage_vs_random": 1.5,
    "imagined_minus_real": -0.02,
}


class Page(HTMLParser):
    """Tags in order, everything that points somewhere, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.sources, self.words = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("report") / "a <b> & c")


def page_of(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_the_page_is_whole_and_loads_nothing(run):
    page = page_of(run)
    assert page.open == []
    assert page.sources and all(re.match(r"data:(image/png|video/mp4);base64,", source) for source in page.sources)
    assert "a <b> & c" in page.words
    for head in ("What was trained", "How well it acts", "What the model expects", "U-card", "Configuration"):
        assert head in page.words
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert f"{evaluation['mean']:,.2f}" in page.words
    assert not list(run.glob("*.partial"))


def test_what_was_not_measured_is_said_and_how_to_measure_it(run):
    assert "Not measured yet: wm evaluate" in page_of(run).words


def test_the_card_gets_a_verdict_for_each_figure(run):
    file = run / "evaluation.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | CARD | {"card_env_id": "Windy<b>-v0"}))
    words = page_of(run).words
    file.write_text(before)
    for text in (
        "Measured in Windy<b>-v0.",
        "tells new from noisy (AUROC)0.990what it has not seen stands out",
        "0.300do not rely on it: at most 0.10",
        "1 step ahead0.800unsure where it errs",
        "5 steps ahead0.200do not rely on it: 0.6 or more",
        "notices: noiseAUROC 0.970",
        "notices: offsetAUROC 0.600",
    ):
        assert text in words
    assert "20 steps ahead" not in words.split("U-card")[1]


def test_report_through_the_command_line(run, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == f"report: {run / 'report.html'}"


@pytest.mark.parametrize("content", ["{", '{"mean": 1.0}', "[]"])
def test_an_evaluation_that_is_none_is_refused(run, content):
    file = run / "evaluation.json"
    before = file.read_text()
    file.write_text(content)
    with pytest.raises(CheckpointError, match="evaluation.json"):
        write_report(run)
    file.write_text(before)


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
