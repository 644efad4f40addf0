"""Stores that are damaged, or that another program changes while they are read: never other numbers, never a crash."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal

import numpy as np
import pytest

from vlrun import RegionFeatureStore
from vlrun.errors import DataError
from vlrun.features.cut_files import name_cut_files
from vlrun.features.handles import Handle, shared_handle
from vlrun.features.writer import write_store

IMAGE = "COCO_val2014_000000000003"
OTHER = "COCO_val2014_000000000007"


def _file_of(store_path):
    return store_path / "data.mdb"


def _flip(store_path, part: bytes) -> None:
    """Changes one bit in the middle of ``part``, wherever it lies in the file: LMDB keeps old pages."""
    content, middle = _file_of(store_path).read_bytes(), len(part) // 2
    assert part in content
    flipped = part[:middle] + bytes([part[middle] ^ 4]) + part[middle + 1 :]
    _file_of(store_path).write_bytes(content.replace(part, flipped))


@pytest.fixture
def other_path(tmp_path, make_regions):
    """A store of the same ids and sizes as ``store_path``, with other numbers."""
    path = tmp_path / "other"
    write_store(path, [make_regions(f"COCO_val2014_{i:012d}", 2 + i % 4, seed=1) for i in range(12)])
    return path


@pytest.mark.parametrize("part", ["features", "boxes", "class_ids", "attribute_scores"])
@pytest.mark.parametrize("how", ["read", "read_with_classes", "outline", "__getitem__"])
def test_a_changed_bit_of_a_record_is_noticed_by_every_way_to_read_it(store_path, part, how):
    _flip(store_path, getattr(RegionFeatureStore(store_path)[IMAGE], part).tobytes())
    store = RegionFeatureStore(store_path)
    read = getattr(store, how)
    read(OTHER if how == "__getitem__" else [OTHER])
    with pytest.raises(DataError, match=f"image '{IMAGE}' is damaged in .*its checksum is wrong"):
        read(IMAGE if how == "__getitem__" else [OTHER, IMAGE])


def test_a_record_under_the_id_of_another_is_noticed(store_path):
    store = RegionFeatureStore(store_path)
    with store._records([IMAGE, OTHER]) as records:
        first, second = (bytes(records.values[image_id]) for image_id in (IMAGE, OTHER))
    del store, records
    content = _file_of(store_path).read_bytes()
    swapped = content.replace(first, b"placeholder").replace(second, first).replace(b"placeholder", second)
    assert len(swapped) == len(content)
    _file_of(store_path).write_bytes(swapped)
    with pytest.raises(DataError, match="its checksum is wrong"):
        RegionFeatureStore(store_path).read([OTHER])


def test_a_record_is_compared_with_its_checksum_once(store_path, monkeypatch):
    compared = []
    monkeypatch.setattr("vlrun.features.store.is_intact", lambda key, *_: compared.append(key) or True)
    store = RegionFeatureStore(store_path)
    for _ in range(3):
        store.read([IMAGE, OTHER])
    assert compared == [IMAGE.encode(), OTHER.encode()]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(store.read, [[IMAGE, "COCO_val2014_000000000001"]])
    assert shared_handle(store.file).checked.marks[:4] == b"\0\1\0\1"  # what a forked process finds, its parent knows


def test_a_store_that_is_overwritten_in_place_is_refused(store_path, other_path):
    store = RegionFeatureStore(store_path)
    store.read([IMAGE])
    assert _file_of(store_path).stat().st_size == _file_of(other_path).stat().st_size
    found = RegionFeatureStore(other_path).fingerprint
    before = store.fingerprint
    shutil.copyfile(_file_of(other_path), _file_of(store_path))
    with pytest.raises(DataError, match=f"overwritten while it was read: its fingerprint was {before} and is {found}"):
        store.read([OTHER])


def test_a_store_that_is_overwritten_while_a_batch_is_read_is_refused(store_path, other_path):
    store = RegionFeatureStore(store_path)

    def read_slowly() -> None:
        with store._records([IMAGE]) as records:
            shutil.copyfile(_file_of(other_path), _file_of(store_path))
            np.array(records.values[IMAGE])

    with pytest.raises(DataError, match="overwritten while it was read"):
        read_slowly()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_store_that_is_cut_off_under_a_reader_is_an_error_and_no_crash(store_path, share):
    store = RegionFeatureStore(store_path)
    store.read([IMAGE])
    size = _file_of(store_path).stat().st_size
    os.truncate(_file_of(store_path), int(size * share))
    with pytest.raises(DataError, match=f"it had {size:,} bytes and has {int(size * share):,}"):
        store.read([OTHER])


def test_a_new_date_alone_is_no_change_but_records_are_checked_again(store_path):
    store = RegionFeatureStore(store_path)
    expected = store.read([IMAGE])
    os.utime(_file_of(store_path), (1, 1))
    store.read([OTHER])
    assert IMAGE not in store._open().checked
    np.testing.assert_array_equal(store.read([IMAGE]).features, expected.features)


def test_a_process_that_opens_another_store_under_the_name_refuses_it(store_path, other_path):
    store = RegionFeatureStore(store_path)
    message = f"its fingerprint was {store.fingerprint} and is {RegionFeatureStore(other_path).fingerprint}"
    sent = pickle.dumps(store)
    shutil.rmtree(store_path)
    shutil.copytree(other_path, store_path)
    with pytest.raises(DataError, match=f"replaced by another store while it was in use: {message}"):
        pickle.loads(sent).read([IMAGE])
    assert store.read([IMAGE]).image_ids == (IMAGE,)  # who has the old one open keeps reading it


def test_a_rebuilt_store_of_the_same_content_is_the_same_store(store_path, tmp_path, make_regions):
    store = RegionFeatureStore(store_path)
    expected, sent = store.read([IMAGE]), pickle.dumps(store)
    shutil.rmtree(store_path)
    write_store(store_path, [make_regions(f"COCO_val2014_{i:012d}", 2 + i % 4) for i in range(12)])
    np.testing.assert_array_equal(pickle.loads(sent).read([IMAGE]).features, expected.features)


def test_a_process_that_finds_the_store_gone_says_so(store_path):
    store = RegionFeatureStore(store_path)
    store.read([IMAGE])
    shutil.rmtree(store_path)
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)

    def read() -> None:
        try:
            store.read([IMAGE])
        except DataError as error:
            sender.send(str(error))

    process = fork.Process(target=read)
    process.start()
    process.join(timeout=20)
    assert receiver.poll()
    assert "cannot be read any more: No such file or directory; was it removed or renamed?" in receiver.recv()


def test_a_file_that_is_cut_in_the_middle_of_a_read_is_named(store_path):
    """Its pages end in SIGBUS, which no check before or after can prevent; in a fork, for it ends the process."""
    handle = shared_handle(_file_of(store_path))
    file, said = handle.file, os.pipe()
    child = os.fork()
    if not child:
        os.dup2(said[1], 2)
        signal.signal(signal.SIGBUS, signal.SIG_DFL)  # pytest has one
        name_cut_files.cache_clear()
        opened = Handle(file)
        with opened.reading() as transaction:
            os.truncate(file, 0)
            list(transaction.cursor())
        os._exit(0)
    os.close(said[1])
    with os.fdopen(said[0], encoding="utf-8") as output:
        assert f"DataError: a read went beyond the end of {file}: it was cut meanwhile" in output.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DataError.exit_status
