"""ROSITA's annotations become ours, and whatever does not fit is named with its place, all of it at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlrun import DataError
from vlrun.cli import main
from vlrun_pretraining.build_rosita import build_rosita
from vlrun_pretraining.rosita.word_vectors import WordVectors

SET = "annotations/pt-coco/pt_coco_annotations_train"


@pytest.fixture
def mini(golden: Path, tmp_path: Path) -> Path:
    """A copy of the made-up set that can be damaged."""
    folder = tmp_path / "mini"
    shutil.copytree(golden / "rosita/pretrain_data/mini", folder, ignore=shutil.ignore_patterns("imgfeats"))
    return folder


def change(mini: Path, line: int, column: int, value: Any, *, index: bool = False) -> None:
    """Puts a value into a column of pt-coco, and mends the index unless it is under test."""
    path = mini / f"{SET}.tsv"
    rows = [row.split("\t") for row in path.read_text().splitlines()]
    rows[line - 1][column] = value if isinstance(value, str) else json.dumps(value)
    lines = ["\t".join(row) + "\n" for row in rows]
    path.write_text("".join(lines))
    if not index:
        starts = np.cumsum([0, *(len(each.encode()) for each in lines)])[:-1]
        path.with_suffix(".lineidx").write_text("".join(f"{start}\n" for start in starts))


def problems(mini: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        build_rosita(mini, mini / "built")
    return caught.value.problems


def test_a_line_has_words_lemmas_graph_and_how_often_it_is_said(mini: Path, tmp_path: Path) -> None:
    report = build_rosita(mini, tmp_path / "built")
    first = json.loads((tmp_path / "built/pt-coco.jsonl").read_text().splitlines()[0])
    assert first["id"] == "pt-coco_0"
    assert first["text"] == "A small brown dog jumps to catch a yellow frisbee in the grass"
    assert first["objects"] == [[3], [9], [12]]
    priors = json.loads((mini / "annotations/pt-coco/text_piror_coco_vg_cc_sbu.json").read_text())
    of_dog = priors["attr_count"]["dog"]
    assert first["attributes"][:2] == [
        {"object": [3], "words": [1], "frequency": of_dog["small"]},
        {"object": [3], "words": [2], "frequency": of_dog["brown"]},
    ]
    assert first["relations"][0]["of_subject"] == priors["rel_count"]["dog"]["catch frisbee"]
    assert report.remarks == ("1 images of pt-coco are in 'heldout' alone",)


def test_the_images_that_are_held_out_are_in_no_other_split_and_spread_over_the_file(mini: Path) -> None:
    path = mini / f"{SET}.tsv"
    row = path.read_text().splitlines()[0].split("\t")
    images = [f"COCO_train2014_{number:012d}.jpg" for number in range(60)]
    path.write_text("".join("\t".join([*row[:8], image, *row[9:]]) + "\n" for image in images for _ in range(2)))
    path.with_suffix(".lineidx").unlink()
    build_rosita(mini, mini / "built")
    lines = {
        split: [json.loads(line) for line in (mini / f"built/{split}.jsonl").read_text().splitlines()]
        for split in ("pt-coco", "heldout")
    }
    found = {split: list(dict.fromkeys(line["image"] for line in own)) for split, own in lines.items()}
    assert found["heldout"] == [images[place].removesuffix(".jpg") for place in (24, 49)]
    assert len(found["pt-coco"]) == 58
    assert len(lines["pt-coco"]) + len(lines["heldout"]) == 120


def test_a_graph_that_names_a_word_that_is_not_there(mini: Path) -> None:
    change(mini, 1, 12, {"objs": [[[3]], [[13]]], "attrs": [[[3], []]], "rels": []})
    assert problems(mini) == [
        f"{mini / SET}.tsv:1: tsg: objs, entry 1: names word 13, and the text has 13, from 0 on",
        f"{mini / SET}.tsv:1: tsg: attrs, entry 0: expected 2 lists of numbers of words, found [[3], []]",
    ]


def test_lemmas_that_are_not_as_many_as_words(mini: Path) -> None:
    change(mini, 2, 5, json.dumps("two boy throw"))
    assert problems(mini) == [f"{mini / SET}.tsv:2: the text has 11 words, and there are 3 lemmas"]


def test_priors_of_other_texts(mini: Path) -> None:
    path = mini / "annotations/pt-coco/text_piror_coco_vg_cc_sbu.json"
    content = json.loads(path.read_text())
    del content["rel_count"]["dog"], content["attr_count"]["frisbee"]["yellow"]
    path.write_text(json.dumps(content))
    found = problems(mini)
    assert found[0] == (
        f"{mini / SET}.tsv:1: text_piror_coco_vg_cc_sbu.json is of other texts: attr_count of 'frisbee' has no "
        "'yellow'; rel_count of 'dog' has no 'catch frisbee'; rel_count of 'dog' has no 'in grass'"
    )
    assert len(found) > 1, "every row that needs them is named"


@pytest.mark.parametrize("content", ["[]", '{"attr_count": {}}', '{"attr_count": {"a": 1}, "rel_count": {}}', "{"])
def test_priors_that_are_none(mini: Path, content: str) -> None:
    path = mini / "annotations/pt-coco/text_piror_coco_vg_cc_sbu.json"
    path.write_text(content)
    assert str(path) in problems(mini)[0]


def test_a_row_that_is_cut_off(mini: Path) -> None:
    path = mini / f"{SET}.tsv"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*rows[:-1], rows[-1][:40]]))
    assert problems(mini) == [f"{path}:{len(rows)}: expected 13 columns with tabs between them, found 5 of them"]


def test_an_index_of_another_file(mini: Path) -> None:
    change(mini, 1, 4, "A dog.", index=True)
    (found,) = problems(mini)
    assert found.startswith(f"{mini / SET}.lineidx: by it row 2 of pt_coco_annotations_train.tsv begins at byte ")
    assert found.endswith("one of the files is cut off or not of the other: get both again")


def test_an_index_with_more_rows(mini: Path) -> None:
    index = (mini / SET).with_suffix(".lineidx")
    index.write_text(f"{index.read_text()}999999\n")
    rows = len((mini / f"{SET}.tsv").read_text().splitlines())
    assert problems(mini)[0].startswith(f"{index}: has {rows + 1} rows, and pt_coco_annotations_train.tsv has {rows}")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (6, "flickr", ":1: img_src 'flickr' is none of coco, genome, conceptual, sbu"),
        (4, "a dog", ":1: column 4 (text): not JSON: Expecting value: line 1 column 1 (char 0)"),
        (12, [], ":1: column 12 (tsg): expected an object, found list"),
        (12, {"objs": [], "attrs": []}, ":1: tsg: rels: expected a list, found NoneType"),
    ],
)
def test_a_column_of_another_kind(mini: Path, column: int, value: Any, expected: str) -> None:
    change(mini, 1, column, value)
    assert problems(mini) == [f"{mini / SET}.tsv{expected}"]


def test_nothing_is_left_of_a_build_that_failed(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(mini, 2, 5, json.dumps("two boy throw"))
    output = mini / "built"
    assert main(["data", "build", "rosita-pretraining", "--from", "rosita", str(mini), str(output)]) != 0
    assert not output.exists()
    assert "the text has 11 words, and there are 3 lemmas" in capsys.readouterr().err


# --- word vectors ---


def test_vectors_are_kept_of_the_words_that_are_needed(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, vectors = mini / "built", mini / "vectors.txt"
    assert main(["data", "build", "rosita-pretraining", "--from", "rosita", str(mini), str(output)]) == 0
    vectors.write_text("3 4\ndog 1 0 0 0\nof the 2 2 2 2\nfrisbee 0 3 4 0\n")
    assert main(["data", "build", "rosita-pretraining", "--from", "word-vectors", str(vectors), str(output)]) == 0
    table = WordVectors.read(output / "word_vectors.npz")
    np.testing.assert_allclose(table.of(["dog", "frisbee", "of"]), [[1, 0, 0, 0], [0, 0.6, 0.8, 0], [0, 0, 0, 0]])
    shown = capsys.readouterr().out
    assert "word_vectors.npz has vectors of 2 of " in shown
    assert "without a vector, so near to nothing: " in shown


@pytest.mark.parametrize("line", ["dog 1 x 0 0", "dog 1 nan 0 0", "dog 1 inf 0 0"])
def test_a_damaged_vector_is_named(mini: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    output, vectors = mini / "built", mini / "vectors.txt"
    assert main(["data", "build", "rosita-pretraining", "--from", "rosita", str(mini), str(output)]) == 0
    vectors.write_text(f"a 1 2 3 4\n{line}\n")
    assert main(["data", "build", "rosita-pretraining", "--from", "word-vectors", str(vectors), str(output)]) != 0
    assert f"{vectors}:2: expected a word and 4 numbers" in capsys.readouterr().err


def test_a_table_of_vectors_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "word_vectors.npz"
    for content in (b"", b"PK\3\4 and then nothing", b"words"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a table of words and vectors"):
            WordVectors.read(path)
    np.savez(path, words=np.array(["a", "a"]), vectors=np.ones((2, 3), np.float32))
    with pytest.raises(DataError, match="1 words are there twice"):
        WordVectors.read(path)
    np.savez(path, words=np.array(["a"]), vectors=np.full((1, 3), np.nan, np.float32))
    with pytest.raises(DataError, match="expected finite numbers"):
        WordVectors.read(path)
    np.savez(path, words=np.array(["a", None], object), vectors=np.ones((2, 3), np.float32))
    with pytest.raises(DataError, match="not a table of words and vectors"):
        WordVectors.read(path)
