"""Asking a task that ranks: images for a text, texts for an image, in the order of its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_world as toy

from vlrun import LoadedRun, UsageError, load_experiment, load_run, run_experiment
from vlrun_retrieval.scorer import PairScorer


@pytest.fixture
def run(caption_world: Path, caption_plugins: object, request: pytest.FixtureRequest) -> LoadedRun:
    roots = [f"data_root={caption_world / 'data'}", f"runs_root={caption_world / 'runs'}", "train.epochs=1"]
    options = [*roots, *getattr(request, "param", [])]
    loaded = load_experiment(caption_world / "captions.yaml", options, plugins=caption_plugins)  # type: ignore[arg-type]
    return load_run(run_experiment(loaded, plugins=caption_plugins).folder, plugins=caption_plugins)  # type: ignore[arg-type]


def scores(run: LoadedRun, texts: list[str], images: list[str]) -> np.ndarray:
    """(images, texts), as the evaluation scores them."""
    from vlrun.engine.stopping import StopRequest
    from vlrun.runs.questions import AskedRegions, QuestionView

    view = QuestionView(run.run, run.task_run, StopRequest(), AskedRegions(run.store, {}))
    scorer = PairScorer.of_run(view, run.task_run.task.pair_scores)
    with scorer.at_work():
        encoded = scorer.encoded(texts, images[0])
        return scorer.all_pairs(scorer.text_part(encoded, np.arange(len(texts))), scorer.region_part(images)).numpy()


def test_images_are_ranked_for_a_text(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [f"img{number}" for number in range(toy.NUM_IMAGES)]
    text = "text 1 of"
    expected = scores(run, [text], images)[:, 0]
    monkeypatch.setattr("vlrun_retrieval.matching._ASKED_AT_ONCE", 3)
    choices = run.ask(text, images, top=len(images)).choices
    assert [choice.text for choice in choices] == [images[row] for row in np.argsort(-expected, kind="stable")]
    assert [choice.probability for choice in choices] == pytest.approx(
        sorted(1 / (1 + np.exp(-expected)), reverse=True)
    )
    assert run.ask(text, images).choices == choices[:5]


def test_texts_are_ranked_for_an_image(run: LoadedRun) -> None:
    texts = [f"text {number}" for number in range(3)]
    expected = scores(run, texts, ["img2"])[0]
    choices = run.ask(texts, "img2").choices
    assert [choice.text for choice in choices] == [texts[row] for row in np.argsort(-expected, kind="stable")]


def test_many_questions_are_ranked_one_by_one(run: LoadedRun) -> None:
    questions = [("text 1", ["img1", "img2", "img3"]), ("text 2", ["img9"]), (["text 1", "text 2"], "img1")]
    ranked, unknown, texts = run.ask_many(questions)
    assert ranked == run.ask(*questions[0])
    assert "'img9' has no region features" in str(unknown)
    assert texts == run.ask(*questions[2])


def test_one_pair_has_one_choice_and_several_of_both_are_refused(run: LoadedRun) -> None:
    (choice,) = run.ask("text 1", "img2").choices
    assert choice.text == "img2"
    with pytest.raises(UsageError, match="several of both are no question"):
        run.ask(["text 1", "text 2"], ["img1", "img2"])
    with pytest.raises(UsageError, match="at least one image, and got no images"):
        run.ask("text 1", [])


@pytest.mark.parametrize("run", [["tasks.0.score=match-logit"]], indirect=True)
def test_a_logit_alone_is_no_probability(run: LoadedRun) -> None:
    assert [choice.probability for choice in run.ask("text 1", ["img1", "img2"]).choices] == [None, None]
