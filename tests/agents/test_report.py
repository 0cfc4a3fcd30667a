"""The page that `wm report` writes: complete without any other file, and honest about what was not measured."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from agents.cli import main
from agents.report import write_report
from agents.report_pictures import _draw_card, card_picture
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


BROWSER = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)


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
        "Verdict: 6 of 9 figures are as wanted. Do not rely on it where it says: error of the noise it learned; ranks",
    ):
        assert text in words
    assert "20 steps ahead" not in words.split("U-card")[1]


def test_every_part_of_the_card_has_a_plot():
    figure = Figure()
    _draw_card(figure, CARD)
    bars = {axis.get_title(): [bar.get_width() for bar in axis.patches] for axis in figure.axes}
    assert list(bars.values()) == [
        [0.99], [0.3], [0.01], [1.5], [-0.02], [0.8, 0.2], [0.9], [0.97, 0.6], [0.1], [3],
    ]  # fmt: skip
    assert card_picture({"mace": 0.01}).startswith(b"\x89PNG")


LOOK = """<script>
addEventListener("load", () => setTimeout(() => {
  const images = [...document.images], [film] = document.getElementsByTagName("video");
  const drawn = images.filter(image => image.naturalWidth > 200).length, wide = document.body.scrollWidth;
  const heads = [...document.querySelectorAll("h2")].filter(head => head.offsetHeight > 0).length;
  document.title = `${drawn} of ${images.length} pictures, film ${film.videoWidth > 500}, ` +
    `page ${wide <= innerWidth}, headings ${heads}`;
}, 1000));
</script></body>"""
"""What a page says of itself once it is drawn."""


@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_a_browser_draws_every_picture_and_plays_the_film(run, tmp_path):
    file = run / "evaluation.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | CARD))
    text = write_report(run).read_text(encoding="utf-8")
    file.write_text(before)
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", LOOK), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    command += ["--window-size=1200,900", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert re.search("<title>(.*?)</title>", found)[1] == "3 of 3 pictures, film true, page true, headings 6"


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
