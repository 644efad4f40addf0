"""report.html: one page that stands alone, is well-formed, and shows what was run as it was given."""

from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Outcome, ResultRow, RunInfo, StepReport
from vlrun.reporting.charts import Chart, Line, smooth, thin
from vlrun.reporting.html import HtmlReporter, page_template, render_report, rewrite_report, write_report
from vlrun.reporting.jsonl import JsonLinesReporter

NASTY = "<script>alert('x')</script> & \"quotes\" \x1b[31m"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements nest; keeps their attributes, texts and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def run_info(folder: Path, **changes: Any) -> RunInfo:
    facts = [("backbone", NASTY), ("images", "split  found"), ("images", "val        3")]
    values = {"experiment": "toy & co", "folder": folder, "facts": facts, "total_steps": 60, "steps_per_epoch": 20}
    return RunInfo(**{**values, "epochs": 3, **changes})


def rows() -> list[ResultRow]:
    score = Score("accuracy", 81.8, count=5726, protocol={"pool": NASTY, "file": "testA"}, primary=True)
    other = Score("accuracy", 76.3, count=10758, protocol={"pool": "all", "file": "val"}, primary=True)
    return [
        ResultRow("rec", "testA", score, 82.01, "Cui et al. 2021"),
        ResultRow("rec", "testA", other, 82.01, "Cui et al. 2021"),
    ]


def make_run(folder: Path, **changes: Any) -> RunInfo:
    run = run_info(folder, **changes)
    reporter = JsonLinesReporter()
    reporter.start(run)
    for step in range(1, 61):
        losses = {"ranking": 2 / step, "box": 1 / step}
        loss = float("nan") if step == 7 else 3 / step
        reporter.step(StepReport(step, (step - 1) // 20 + 1, "rec", losses, loss, 5e-5, 1.0, 800.0, 0.03, 1.0))
        if step % 20 == 0:
            scores = [Score("accuracy", 50 + step, primary=True), Score("oracle", 97.0)]
            reporter.evaluation(EvaluationReport("rec", "val", step, step // 20, scores, 1.0, 7))
    reporter.close()
    (folder / "config.yaml").write_text(f"name: toy\n# {NASTY}\n")
    return run


def outcome(folder: Path, **changes: Any) -> Outcome:
    locations = [("report", str(folder / "report.html")), ("data", "/elsewhere/a b")]
    return Outcome(**{"status": "done", "message": "", "rows": rows(), "locations": locations, **changes})


def make_page(folder: Path, **changes: Any) -> str:
    run = make_run(folder, **changes)
    return write_report(folder, outcome(folder), run).read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_has_a_title_and_a_language(tmp_path: Path) -> None:
    text = make_page(tmp_path)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert f"toy & co: {tmp_path.name}" in page.text
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    text = make_page(tmp_path)
    page = Page(text)
    assert page.all("script") == page.all("link") == page.all("img") == []
    assert not re.search(r"https?://|url\(|@import", text)
    assert {link["href"] for link in page.all("a")} == {"#protocol-1", "#protocol-2", "./report.html"}


def test_given_text_stays_text(tmp_path: Path) -> None:
    text = make_page(tmp_path)
    shown = NASTY.replace("\x1b", " ")
    assert "<script" not in text
    assert "\x1b" not in text
    assert Page(text).text.count(shown) == 3  # a fact, a protocol, the configuration


def test_links_lead_to_places_in_the_page(tmp_path: Path) -> None:
    page = Page(make_page(tmp_path))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    inner = {str(link["href"])[1:] for link in page.all("a") if str(link["href"]).startswith("#")}
    assert len(ids) == len(set(ids))
    assert inner <= set(ids)


def test_results_stand_beside_published_numbers_with_their_marks(tmp_path: Path) -> None:
    text = make_page(tmp_path)
    assert re.search(r"81\.80 %<sup><a[^>]*>1</a></sup></td><td[^>]*>5,726</td><td[^>]*>82\.01 %</td>", text)
    assert re.search(r'<tr id="protocol-2"><th scope="row">marked 2</th>', text)
    assert "Published numbers: Cui et al. 2021" in Page(text).text


def test_tables_have_captions_and_headers_with_a_scope(tmp_path: Path) -> None:
    page = Page(make_page(tmp_path))
    assert len(page.all("caption")) == len(page.all("table")) >= 4
    assert {header.get("scope") for header in page.all("th")} == {"row", "col"}


def test_charts_are_well_formed_and_named_for_screen_readers(tmp_path: Path) -> None:
    charts = re.findall(r"<svg .*?</svg>", make_page(tmp_path), flags=re.DOTALL)
    trees = [ElementTree.fromstring(chart) for chart in charts]
    named = [tree for tree in trees if tree.get("role") == "img"]
    assert [tree.find("title").text for tree in named] == [  # type: ignore[union-attr]
        "Training loss",
        "Scores after each epoch in %",
        "Learning rate",
    ]
    assert all(tree.get("role") == "img" or tree.get("aria-hidden") == "true" for tree in trees)
    assert all(tree.findtext("desc") for tree in named)
    assert all(
        {tree.find("title").get("id"), tree.find("desc").get("id")} == set(tree.get("aria-labelledby").split())
        for tree in named
    )  # type: ignore[union-attr]


def test_only_primary_scores_are_drawn_and_their_numbers_are_in_a_table(tmp_path: Path) -> None:
    page = Page(make_page(tmp_path))
    assert "val accuracy" in page.text
    assert "val oracle" not in page.text
    assert "110.00 %" in page.text


def test_a_demo_page_has_a_banner_and_marks_published_numbers(tmp_path: Path) -> None:
    text = make_page(tmp_path, is_demo=True)
    assert 'class="banner" role="note">DEMO RUN' in text


def test_what_is_not_comparable_says_so_beside_the_published_number_and_why_below(tmp_path: Path) -> None:
    score = Score("accuracy", 81.8, count=5726, primary=True, standard_error=0.51)
    rows = [ResultRow("rec", "testA", score, 82.01, "Cui", [f"tiny {NASTY}"]), ResultRow("rec", "val", score, 82.01)]
    text = render_report(tmp_path, Outcome("done", "", rows), run_info(tmp_path))
    assert "<script>alert" not in text
    page = Page(text).text
    assert "81.80 ± 0.51 %" in page
    assert re.search(r"82\.01 %\s*not comparable\s", page)
    assert re.search(r"82\.01 %\s*-0\.21", page)
    assert f"Not comparable with the published numbers: tiny {NASTY[:-5]}" in page


@pytest.mark.parametrize(
    ("status", "words"), [("done", "finished"), ("stopped", "stopped on request"), ("failed", "failed")]
)
def test_the_page_says_how_the_run_ended(tmp_path: Path, status: str, words: str) -> None:
    text = render_report(tmp_path, Outcome(status, f"because {NASTY}"), run_info(tmp_path))
    assert re.search(rf'class="status {status}">{words}', text)
    assert "because &lt;script&gt;" in text
    assert "There are no final results." in text


def test_the_reporter_writes_the_page_when_the_run_ends(tmp_path: Path) -> None:
    reporter = HtmlReporter()
    reporter.start(make_run(tmp_path))
    assert not (tmp_path / "report.html").exists()
    reporter.finish(outcome(tmp_path, status="failed", rows=[]))
    assert "Training loss" in (tmp_path / "report.html").read_text()


def test_the_page_can_be_written_anew_from_the_folder_without_losing_the_recipe(tmp_path: Path) -> None:
    reporter = HtmlReporter()
    reporter.start(make_run(tmp_path))
    page = Page(rewrite_report(tmp_path).read_text())
    assert NASTY.replace("\x1b", " ") in page.text
    assert "val        3" in page.text
    assert "metrics.jsonl" in page.text


def test_a_run_that_never_started_has_no_page(tmp_path: Path) -> None:
    HtmlReporter().finish(outcome(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_gives_a_small_page(tmp_path: Path) -> None:
    reporter = JsonLinesReporter()
    run = run_info(tmp_path, total_steps=5_000)
    reporter.start(run)
    for step in range(1, 5_001):
        reporter.step(StepReport(step, 1, "rec", {"loss": 1 / step}, 1 / step, 1e-9 * step, 1.0, 800.0, 0.03, 1.0))
    reporter.close()
    assert len(render_report(tmp_path, outcome(tmp_path), run)) < 40_000


def drawn(points: list[tuple[float, float]]) -> ElementTree.Element:
    chart = Chart("x", "t", "d", [Line("a", points, has_dots=True)], "step")
    return ElementTree.fromstring(page_template("chart.svg").render(chart=chart))


def test_a_gap_in_the_data_is_a_gap_in_the_line() -> None:
    tree = drawn([(1.0, 1.0), (2.0, 2.0), (3.0, float("nan")), (4.0, 1.0), (5.0, 2.0)])
    assert len(tree.findall(".//g/polyline")) == 2


@pytest.mark.parametrize("points", [[(5.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(0.0, -1e-9), (1e7, 1e12)]])
def test_points_of_any_size_lie_inside_the_frame(points: list[tuple[float, float]]) -> None:
    tree = drawn(points)
    _, _, width, height = map(float, tree.get("viewBox", "").split())
    dots = [(float(dot.get("cx", "nan")), float(dot.get("cy", "nan"))) for dot in tree.iter("circle")]
    assert len(dots) == len(points)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in dots)


@pytest.mark.parametrize("score", [None, float("nan")])
def test_nothing_to_draw_is_no_chart(tmp_path: Path, score: float | None) -> None:
    run = run_info(tmp_path)
    reporter = JsonLinesReporter()
    reporter.start(run)
    if score is not None:
        reporter.evaluation(EvaluationReport("rec", "val", 1, 1, [Score("accuracy", score)], 1.0, 7))
    reporter.close()
    page = Page(render_report(tmp_path, outcome(tmp_path), run))
    assert page.all("svg") == []
    assert "Curves" not in page.text


def test_smoothing_keeps_a_straight_line_and_does_not_lag() -> None:
    line = [(float(x), 3.0 * x) for x in range(50)]
    assert [y for _, y in smooth(line, 11)] == pytest.approx([y for _, y in line])


def test_thinning_keeps_the_ends_and_the_jumps_of_a_schedule() -> None:
    steps = [(float(x), 1.0 if x < 5000 else 0.1) for x in range(10_000)]
    kept = thin(steps)
    assert len(kept) < 300
    assert (kept[0], kept[-1]) == (steps[0], steps[-1])
    assert {rate for _, rate in kept} == {1.0, 0.1}
    assert thin(steps[:200]) == steps[:200]


def test_every_task_has_its_own_loss_and_details_lie_folded_up(tmp_path: Path) -> None:
    run = run_info(tmp_path, num_tasks=2)
    reporter = JsonLinesReporter()
    reporter.start(run)
    for step in range(1, 41):
        task, loss = ("vqa", 300.0) if step % 2 else ("nlvr2", 0.7)
        reporter.step(StepReport(step, 1, task, {"loss": loss}, loss, 5e-5, 1.0, 800.0, 0.03, 1.0, 1))
    reporter.close()
    group = ResultRow("vqa", "val", Score("accuracy-question-how-many", 40.0, count=7, detail=True))
    page = write_report(tmp_path, outcome(tmp_path, rows=[*rows(), group]), run).read_text(encoding="utf-8")
    assert "Training loss of vqa" in page
    assert "Training loss of nlvr2" in page
    assert "<summary>More scores (1)</summary>" in page


def test_a_browser_shows_what_was_given_and_runs_none_of_it(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    hostile = "<img src=x onerror=alert(1)><script>document.title = 'taken'</script>"
    score = Score(hostile, 81.8, count=5726, primary=True, standard_error=0.51)
    row = ResultRow(hostile, hostile, score, 82.01, hostile, [hostile])
    run = run_info(tmp_path, experiment=hostile, facts=[(hostile, hostile)])
    page = write_report(tmp_path, Outcome("failed", hostile, [row], [(hostile, hostile)]), run)
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium's sandbox refuses the root of a container
        tab = driver.chromium.launch(executable_path=chromium, args=options).new_page()
        happened: list[str] = []
        tab.on("dialog", lambda dialog: happened.append(dialog.message))
        tab.on("request", lambda request: happened.append(request.url) if request.url != page.as_uri() else None)
        tab.goto(page.as_uri())
        shown = tab.locator("body").inner_text()
        assert (tab.title(), happened, tab.locator("img, script").count()) == (f"{hostile}: {tmp_path.name}", [], 0)
    assert shown.count(hostile) >= 8
    assert "81.80 ± 0.51 %" in shown
    assert "not comparable" in shown


def test_what_is_reported_beside_losses_has_charts_one_for_names_that_begin_alike(tmp_path: Path) -> None:
    run, reporter = run_info(tmp_path), JsonLinesReporter()
    reporter.start(run)
    for step in range(1, 41):
        scalars = {"told apart": step / 40, "norm/heads.*": 2.0, "norm/backbone.*": float("nan") if step == 3 else 1.0}
        rates = (5e-5, 1.0, 800.0, 0.03, 1.0)
        reporter.step(StepReport(step, 1, "rec", {"loss": 1 / step}, 1 / step, *rates, scalars=scalars))
    reporter.close()
    page = Page(write_report(tmp_path, outcome(tmp_path), run).read_text(encoding="utf-8"))
    assert {"scalar-0-title", "scalar-1-title"} < {attributes.get("id") for attributes in page.all("title")}
    assert "told apart over steps" in page.text
    assert "norm over steps" in page.text
    assert "heads.*" in page.text
