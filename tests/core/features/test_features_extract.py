"""Extraction with a toy detector: complete, resumable, past bad pictures, in several processes."""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from toy_detector import ToyDetector, WatchedDetector

from vlrun.errors import DataError
from vlrun.features import extract
from vlrun.features.extract import extract_store, find_pictures
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.examples import RegionFeatures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for number in range(12):
        where = folder / "below" if number % 3 else folder
        (where / f"image_{number:02d}.{('jpg', 'PNG', 'jpeg')[number % 3]}").write_text(str(number))
    (folder / "notes.txt").write_text("no picture")
    (folder / "._image_00.jpg").write_text("what some systems leave beside a file")
    return folder


def run(folder: Path, out: Path, **options: Any) -> extract.Extracted:
    made = {"make_detector": ToyDetector, "source": "pictures", **options}
    return extract_store(find_pictures(folder), out, made.pop("make_detector"), **made)


def test_pictures_are_found_in_folders_below_and_through_links(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.jpg").write_text("1")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "below" / "round").symlink_to(folder)  # a circle
    found = find_pictures(folder)
    assert len(found) == 13
    assert len({file.name for file in found}) == 13
    assert find_pictures(found[0]) == [found[0]]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"holds no pictures \(.jpeg, .jpg, .png\), only 1 other files"):
        find_pictures(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_pictures(tmp_path / "absent")


def test_every_picture_becomes_a_record(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = run(folder, tmp_path / "store", progress=lambda what, done, total: told.append((done, total)))
    store = RegionFeatureStore(done.path)
    assert store.image_ids() == [f"image_{number:02d}" for number in range(12)]
    for number in range(12):
        assert (store[f"image_{number:02d}"].features == number).all()
    assert store["image_03"].class_ids.tolist() == [3, 4]
    manifest = store.manifest
    assert (manifest.extractor, manifest.extractor_weights, manifest.boxes) == ("toy 1", "sha256:70y", "2")
    assert manifest.box_format == "xyxy pixels"
    assert told == [(number, 12) for number in range(13)]
    assert done.is_new
    assert not done.failed


@pytest.mark.parametrize("processes", [1, 3])
def test_bad_pictures_are_named_and_the_rest_goes_on(processes: int, folder: Path, tmp_path: Path) -> None:
    for number, content in ((3, "damaged"), (6, "nothing"), (9, "nan")):
        (folder / f"image_{number:02d}.jpg").write_text(content)
    (folder / "image_00.png").write_text("0")
    said: list[str] = []
    done = run(folder, tmp_path / "store", processes=processes, say=said.append)
    lines = sorted(line.removeprefix(f"{folder}/") for line in done.failed)
    assert lines[0] == f"image_00.png: its image id 'image_00' is that of {folder}/image_00.jpg"
    assert lines[1] == "image_03.jpg: damaged: it ends too early"
    assert lines[2] == "image_06.jpg: no region was found"
    assert lines[3].startswith("image_09.jpg: 8 of 8 values of features are NaN")
    assert sorted(said) == sorted(done.failed)
    assert len(RegionFeatureStore(done.path)) == 9


def test_several_processes_give_the_same_store(folder: Path, tmp_path: Path) -> None:
    one = run(folder, tmp_path / "one")
    three = run(folder, tmp_path / "three", processes=3)
    assert one.manifest.fingerprint == three.manifest.fingerprint
    assert multiprocessing.active_children() == []


def test_no_store_is_made_of_bad_pictures_alone(folder: Path, tmp_path: Path) -> None:
    for picture in find_pictures(folder):
        picture.write_text("damaged")
    with pytest.raises(DataError, match="no picture gave features"):
        run(folder, tmp_path / "store")
    assert not list(tmp_path.glob("store*"))


def test_an_interrupted_extraction_continues(folder: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "store", make_detector=partial(ToyDetector, log=log), progress=stop)
    assert not (tmp_path / "store").exists()
    log.unlink()
    said: list[str] = []
    done = run(folder, tmp_path / "store", make_detector=partial(ToyDetector, log=log), say=said.append)
    assert said == ["continuing an extraction that stopped after 5 pictures"]
    assert len(log.read_text().split()) == 7
    assert len(RegionFeatureStore(done.path)) == 12


def extract_slowly(folder: Path, out: Path, log: Path) -> None:
    extract._KEEP_SECONDS = 0.05
    extract_store(find_pictures(folder), out, partial(ToyDetector, log=log, seconds=0.05), source="pictures")


def test_a_killed_extraction_continues(folder: Path, tmp_path: Path) -> None:
    """SIGKILL, which nothing can catch: what was made durable in time is there."""
    log, out = tmp_path / "log", tmp_path / "store"
    process = multiprocessing.get_context("fork").Process(target=extract_slowly, args=(folder, out, log))
    process.start()
    while not log.exists() or len(log.read_text().split()) < 6:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not out.exists()
    before = log.read_text().split()
    log.unlink()
    run(folder, out, make_detector=partial(ToyDetector, log=log))
    assert len(RegionFeatureStore(out)) == 12
    assert len(log.read_text().split()) <= 12 - len(before) + 2


def test_a_store_gets_what_it_lacks_and_keeps_what_it_has(folder: Path, tmp_path: Path) -> None:
    (folder / "image_03.jpg").write_text("damaged")
    log, out = tmp_path / "log", tmp_path / "store"
    make = partial(ToyDetector, log=log)
    assert len(run(folder, out, make_detector=make).failed) == 1
    log.unlink()
    (folder / "image_03.jpg").write_text("3")
    (folder / "new.jpg").write_text("77")
    assert run(folder, out, make_detector=make).is_new
    assert sorted(log.read_text().split()) == ["image_03", "new"]
    assert len(RegionFeatureStore(out)) == 13
    again = run(folder, out, make_detector=make)
    assert not again.is_new


def test_a_store_stays_as_it_is_where_all_that_is_new_fails_again(folder: Path, tmp_path: Path) -> None:
    (folder / "image_03.jpg").write_text("damaged")
    out = tmp_path / "store"
    first = run(folder, out)
    file = (out / "data.mdb").stat()
    second = run(folder, out)
    assert second.failed == first.failed
    assert not second.is_new
    assert second.manifest == first.manifest
    after = (out / "data.mdb").stat()
    assert (file.st_ino, file.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not list(tmp_path.glob("*.partial"))


def test_a_store_of_another_detector_is_not_touched(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    first = run(folder, out)
    other = partial(ToyDetector, "2")
    with pytest.raises(DataError, match="exists and holds something else"):
        run(folder, out, make_detector=other)
    with pytest.raises(DataError, match="exists and holds something else"):
        run(folder, out, dtype="float32")
    assert RegionFeatureStore(out).manifest == first.manifest
    run(folder, out, make_detector=other, overwrite=True)
    assert RegionFeatureStore(out).manifest.extractor == "toy 2"


def test_a_process_that_is_killed_ends_the_work_with_a_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "_LOOK_SECONDS", 0.2)
    (folder / "image_06.jpg").write_text("kill")
    with pytest.raises(DataError, match=r"died \(exit status -9\).*use fewer processes.*the same command continues"):
        run(folder, tmp_path / "store", processes=2)
    assert not (tmp_path / "store").exists()
    (folder / "image_06.jpg").write_text("6")
    assert len(RegionFeatureStore(run(folder, tmp_path / "store").path)) == 12


def extract_in_processes(folder: Path, out: Path, seen: Path) -> None:
    extract_store(find_pictures(folder), out, partial(WatchedDetector, seen), source="pictures", processes=2)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
def test_no_process_outlives_a_main_process_that_is_killed(folder: Path, tmp_path: Path) -> None:
    seen = tmp_path / "processes"
    seen.mkdir()
    main = multiprocessing.get_context("spawn").Process(
        target=extract_in_processes, args=(folder, tmp_path / "s", seen)
    )
    main.start()
    while len(list(seen.iterdir())) < 3:  # the main one makes a detector too, to ask what it is
        assert main.is_alive()
        time.sleep(0.01)
    main.kill()
    main.join()
    deadline = time.monotonic() + 20
    while left := [path for path in seen.iterdir() if is_alive(int(path.name))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bug_of_the_detector_is_shown(processes: int, folder: Path, tmp_path: Path) -> None:
    (folder / "image_06.jpg").write_text("bug")
    with pytest.raises(Exception, match="a bug of the detector"):
        run(folder, tmp_path / "store", processes=processes)


def test_pictures_are_read_while_others_are_with_the_detector(folder: Path, tmp_path: Path) -> None:
    class Watched(ToyDetector):
        read_so_far = 0

        def read(self, file: Path) -> Any:
            Watched.read_so_far += 1
            return super().read(file)

        def detect(self, image_id: str, picture: Any) -> RegionFeatures:
            found = super().detect(image_id, picture)
            waiting.append(Watched.read_so_far)
            return found

    waiting: list[int] = []
    run(folder, tmp_path / "store", make_detector=lambda: Watched(seconds=0.02))
    ahead = [read - number for number, read in enumerate(waiting, 1)]
    assert max(ahead) == extract._AHEAD


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        (["--detector", "nothing"], 4, "no detector 'nothing' is installed"),
        (["--detector", "toy", "--processes", "0"], 2, "at least one is needed"),
        (["--detector", "toy"], 3, "--detector toy: weights: required option is missing"),
        (
            ["--detector", "toy", "--weights", "w", "--boxes", "9-3"],
            3,
            "toy: boxes: write a number of boxes",
        ),
        (["--detector", "toy", "--weights", "w", "colour=red"], 3, "--detector toy: colour: unknown option"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(
    given: list[str], status: int, message: str, folder: Path, tmp_path: Path, install, capsys
) -> None:
    from vlrun.cli import main

    install("vlrun-toy", TOY_PLUGIN)
    assert main(["features", "extract", str(folder), str(tmp_path / "store"), *given]) == status
    assert message in capsys.readouterr().err


def test_the_command_extracts_and_its_status_tells_of_failures(folder: Path, tmp_path: Path, install, capsys) -> None:
    from vlrun.cli import main

    install("vlrun-toy", TOY_PLUGIN)
    command = ["features", "extract", str(folder), str(tmp_path / "store"), "--detector", "toy", "--weights", "w"]
    assert main([*command, "--boxes", "10-100", "device=cpu"]) == 0
    shown = capsys.readouterr().out
    assert "wrote" in shown
    assert "toy 10-100 cpu" in shown
    assert main([*command, "--boxes", "10-100", "device=cpu"]) == 0
    assert "up to date" in capsys.readouterr().out
    (folder / "image_99.jpg").write_text("damaged")
    assert main([*command, "--boxes", "10-100", "device=cpu"]) == 5
    told = capsys.readouterr()
    assert "1 of 13 pictures are not in it" in told.err
    assert "image_99.jpg: damaged: it ends too early" in told.err


TOY_PLUGIN = """
    from vlrun import DetectorConfig, Entry, hookimpl

    class Config(DetectorConfig):
        pass

    def make(config):
        from toy_detector import ToyDetector
        return ToyDetector(f"{config.fewest_boxes}-{config.most_boxes} {config.device}")

    @hookimpl
    def vlrun_detectors():
        return [Entry(name="toy", summary="a toy", config="vlrun_toy:Config", factory="vlrun_toy:make")]
"""
