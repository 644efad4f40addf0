"""The page in a real browser without a window: what a person would do, and what the page then shows.

Needs playwright (the extra ``browser`` of vlrun-serve) and a Chromium: CHROMIUM names it, or it is on the PATH.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_requests import picture
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium's sandbox refuses the root of a container
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; whatever it complains about on the console is an error of the test."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Security Policy" in line.text else None)
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    page.close()
    assert not complaints


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.click("#send")
    page.wait_for_selector("#send:enabled")


def shown_boxes(page: Any) -> list[list[float]]:
    """The rectangles as they are on the screen, relative to the picture, in its pixels."""
    script = """() => [...document.querySelectorAll('.shown rect:not(.region)')].map((rect) => {
        const box = rect.getBoundingClientRect(), frame = rect.closest('.shown').getBoundingClientRect();
        const scale = 200 / frame.width;
        return [box.left - frame.left, box.top - frame.top, box.right - frame.left, box.bottom - frame.top]
            .map((side) => Math.round(side * scale));
    })"""
    boxes: list[list[float]] = page.evaluate(script)
    return boxes


def shades(page: Any, place: str = ".slot") -> list[float]:
    """How opaque each region is drawn on the picture in a place."""
    script = "(rects) => rects.map((rect) => Number(getComputedStyle(rect).fillOpacity))"
    opacities: list[float] = page.eval_on_selector_all(f"{place} .region", script)
    return [round(opacity, 2) for opacity in opacities]


def test_it_says_what_is_asked(page: Any) -> None:
    assert page.inner_text("h1") == "Ask rec"
    assert "52 images with stored features. No detector" in page.inner_text("#about")
    assert page.locator(".slot").count() == 1
    assert page.locator("#more").is_hidden()
    assert page.locator("#poolLabel").is_hidden()
    assert page.inner_text("#note") == "other <b>features</b>"


def test_an_image_is_chosen_by_its_id_and_the_answer_and_boxes_are_shown(page: Any, run: Any) -> None:
    page.fill(".id", "img1")
    page.wait_for_selector("#ids option[value=img1]", state="attached")
    page.locator(".id").press("Tab")
    page.wait_for_selector(".shown:not([hidden])")
    ask(page, "the red ball")
    assert page.inner_text("#answer") == "region 3"
    assert page.locator("#choices li").all_inner_texts() == ["region 3 75.0 %", "<b>2</b> 25.0 %"]
    assert run.asked == [(["the red ball"], ["img1"])]
    best, second = shown_boxes(page)
    assert best == pytest.approx([20, 10, 120, 60], abs=3)  # half of the line's width lies outside
    assert second == pytest.approx([50, 30, 90, 95], abs=3)


def test_an_image_without_a_picture_still_has_its_boxes(page: Any) -> None:
    page.fill(".id", "img2")
    page.locator(".id").press("Tab")
    ask(page, "the red ball")
    page.wait_for_selector(".shown.empty:not([hidden])")
    assert shown_boxes(page)[0] == pytest.approx([20, 10, 120, 60], abs=3)


def test_what_the_text_attends_to_is_shaded_and_a_word_can_be_chosen(page: Any, run: Any) -> None:
    page.fill(".id", "img1")
    page.locator(".id").press("Tab")
    ask(page, "the <i>")
    assert shades(page) == [0.65, 0], "most where the text as a whole looks"
    word = page.locator("#words button").nth(1)
    assert page.locator("#words button").all_inner_texts() == ["the", "<i>"]
    word.hover()
    assert shades(page) == [0, 0.65]
    assert page.locator(".region title").all_text_contents() == ["region 0: 20.0 %", "region 1: 80.0 %"]
    page.hover("h1")
    assert shades(page) == [0.65, 0]
    word.click()
    page.hover("h1")
    page.focus("#text")
    assert shades(page) == [0, 0.65], "a chosen word stays"
    assert word.get_attribute("aria-pressed") == "true"
    page.uncheck("#shade")
    assert shades(page) == [0, 0]
    page.check("#shade")
    word.click()
    page.hover("h1")
    page.focus("#text")
    assert shades(page) == [0.65, 0]

    run.looks = False
    ask(page, "the <i>")
    assert page.locator("#attention").is_hidden()
    assert shades(page) == []
    assert len(shown_boxes(page)) == 2


def test_a_picture_is_dropped(page: Any, run: Any) -> None:
    script = """([bytes, name]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
        return transfer;
    }"""
    transfer = page.evaluate_handle(script, [list(picture()), "img2.png"])
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    page.wait_for_selector(".slot .shown:not([hidden])")
    ask(page, "the red ball")
    assert page.inner_text("#answer") == "region 3"
    assert run.asked[0][1][0].image_id == "img2"


def test_a_picture_is_picked_and_an_error_is_shown_as_text(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "<i>me.png"
    Image.new("RGB", (20, 10)).save(path)
    page.set_input_files(".file", path)
    ask(page, "the red ball")
    assert page.inner_text("#error").startswith("<i>me.png: no stored image has this name")
    assert page.locator("#result").is_hidden()
    page.fill(".id", "img1")
    page.locator(".id").press("Tab")
    ask(page, "the red ball")
    assert page.locator("#error").is_hidden()


@pytest.mark.parametrize("images", [2, None], ids=["two images", "any number"])
def test_several_images_have_a_place_each(images: int | None, run: Any, request: pytest.FixtureRequest) -> None:
    run.asked_images = images
    run.asked_texts = 1 if images else None
    page = request.getfixturevalue("page")
    if images is None:
        page.click("#more")
    for slot, name in zip(page.locator(".id").all(), ("img2", "img1"), strict=True):
        slot.fill(name)
        slot.press("Tab")
    ask(page, "one text\nanother text")
    texts = ["one text another text"] if images else ["one text", "another text"]
    assert [(text, image) for text, image in run.asked] == [(texts, ["img2", "img1"])]
    assert shades(page) == ([0.65, 0] * 2 if images else [0.65, 0])


def test_pictures_of_the_folder_compete_and_the_best_is_shown(
    run: Any, pictures: Path, request: pytest.FixtureRequest
) -> None:
    Image.new("RGB", (200, 100), "blue").save(pictures / "img2.png")
    run.asked_images = run.asked_texts = None
    page = request.getfixturevalue("page")
    assert "all 2 pictures of the folder" in page.inner_text("#poolLabel")
    page.check("#pool")
    assert page.locator("#slots").is_hidden()
    ask(page, "a red ball")
    assert run.asked == [(["a red ball"], ["img1", "img2"])]
    assert page.locator("#choices li").all_inner_texts() == ["img1 100.0 %", "img2 50.0 %"]
    page.wait_for_function("[...document.querySelectorAll('.thumb, #best img')].every((image) => image.naturalWidth)")
    assert page.locator(".thumb").count() == 2
    assert page.locator("#best").is_visible()
    assert shades(page, "#best") == [0.65, 0]


def test_several_pictures_are_picked_at_once(run: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run.asked_images = run.asked_texts = None
    page = request.getfixturevalue("page")
    for name in ("img1.png", "img2.png", "other3.png"):
        Image.new("RGB", (200, 100), "red").save(tmp_path / name)
    page.set_input_files(".file", sorted(tmp_path.glob("*.png")))
    assert page.locator(".slot").count() == 3
    ask(page, "a red ball")
    assert [each.image_id for each in run.asked[0][1]] == ["img1", "img2", "other3"]
    page.wait_for_function("document.querySelectorAll('.thumb').length === 3")
    assert shades(page, ".slot:first-child") == [0.65, 0]
