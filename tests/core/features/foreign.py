"""Writes feature files in the layouts of other projects, as their documentation and public readers have them."""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from vlrun.interfaces.examples import RegionFeatures


def text(array: Any, kind: str = "<f4") -> str:
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()


def write_lmdb(folder: Path, values: Mapping[bytes, bytes]) -> Path:
    env = lmdb.open(str(folder), map_size=1 << 26)
    with env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    env.close()
    (folder / "lock.mdb").unlink()
    return folder


def vilbert(regions: RegionFeatures) -> dict[str, Any]:
    return {
        "image_id": regions.image_id,
        "image_h": regions.height,
        "image_w": regions.width,
        "num_boxes": len(regions.features),
        "boxes": regions.boxes,
        "features": regions.features,
    }


def volta(regions: RegionFeatures) -> dict[str, Any]:
    return {
        "img_id": regions.image_id,
        "img_h": str(regions.height),
        "img_w": str(regions.width),
        "objects_id": text(regions.class_ids, "<i8"),
        "objects_conf": text(regions.class_scores),
        "attrs_id": text(regions.attribute_ids, "<i8"),
        "attrs_conf": text(regions.attribute_scores),
        "num_boxes": str(len(regions.features)),
        "boxes": text(regions.boxes),
        "features": text(regions.features),
    }


def mmf(regions: RegionFeatures) -> dict[str, Any]:
    return {
        "bbox": regions.boxes,
        "num_boxes": len(regions.features),
        "objects": regions.class_ids.astype(np.int64),
        "image_height": regions.height,
        "image_width": regions.width,
        "cls_prob": mmf_probabilities(regions),
    }


def mmf_probabilities(regions: RegionFeatures, background: int = 0) -> np.ndarray:
    """The scores at the classes; with ``background`` columns in front, where the background is the likeliest."""
    table = np.zeros((len(regions.features), background + 1600), np.float32)
    table[:, :background] = 1
    table[np.arange(len(table)), background + regions.class_ids] = regions.class_scores
    return table


def pickled(
    folder: Path,
    images: Sequence[RegionFeatures],
    layout: Callable[[RegionFeatures], dict[str, Any]],
    keys: Sequence[str] = (),
    protocol: int = pickle.DEFAULT_PROTOCOL,
) -> Path:
    names = [key.encode() for key in keys or [regions.image_id for regions in images]]
    values = {name: pickle.dumps(layout(regions), protocol) for name, regions in zip(names, images, strict=True)}
    return write_lmdb(folder, {**values, b"keys": pickle.dumps(names, protocol)})


def mmf_lmdb(regions: RegionFeatures) -> dict[str, Any]:
    return {"feature_path": regions.image_id, "features": regions.features, **mmf(regions)}


def mmf_folder(folder: Path, images: Sequence[RegionFeatures]) -> Path:
    folder.mkdir(parents=True)
    for regions in images:
        np.save(folder / f"{regions.image_id}.npy", regions.features)
        np.save(folder / f"{regions.image_id}_info.npy", np.array(mmf(regions)))
    return folder


def uniter_values(regions: RegionFeatures) -> dict[str, Any]:
    """In half precision, boxes as parts of the image with their width and height."""
    scale = np.array([regions.width, regions.height] * 2, np.float32)
    corners = regions.boxes / scale
    return {
        "features": regions.features.astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1).astype(np.float16),
        "conf": regions.class_scores.astype(np.float16),
        "soft_labels": _soft_labels(regions),
    }


def _soft_labels(regions: RegionFeatures) -> np.ndarray:
    """Of 1,600 classes behind the background, which is the likeliest of all."""
    labels = np.full((len(regions.features), 1601), 0.01, np.float16)
    labels[:, 0] = 0.9
    labels[np.arange(len(labels)), regions.class_ids + 1] = 0.5
    return labels


def as_npz(values: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **values)
    return file.getvalue()


def as_msgpack(values: Mapping[str, Any]) -> bytes:
    """As msgpack-numpy packs arrays."""
    import msgpack

    def pack(array: np.ndarray) -> dict[bytes, Any]:
        return {
            b"nd": True,
            b"type": array.dtype.str,
            b"kind": b"",
            b"shape": array.shape,
            b"data": array.tobytes(),
        }

    return msgpack.packb({name: pack(array) for name, array in values.items()}, use_bin_type=True)


def as_lz4(values: Mapping[str, Any]) -> bytes:
    from lz4.frame import compress

    return compress(as_msgpack(values))


def uniter(
    folder: Path,
    images: Mapping[str, RegionFeatures],
    pack: Callable[[Mapping[str, Any]], bytes],
    sizes: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    folder.mkdir(parents=True)
    values = {name.encode(): pack(uniter_values(regions)) for name, regions in images.items()}
    write_lmdb(folder, {**values, b"__keys__": json.dumps(list(images)).encode()})
    if sizes is not None:
        (folder / "image_sizes.json").write_text(json.dumps(sizes))
    return folder


def vinvl_table(regions: RegionFeatures) -> np.ndarray:
    scale = np.array([regions.width, regions.height] * 2, np.float32)
    corners = regions.boxes / scale
    return np.concatenate([regions.features, corners, corners[:, 2:] - corners[:, :2]], 1).astype(np.float32)


def vinvl_three_columns(regions: RegionFeatures) -> str:
    return f"{regions.image_id}\t{len(regions.features)}\t{text(vinvl_table(regions))}\n"


def vinvl_json(regions: RegionFeatures) -> str:
    found = {"num_boxes": len(regions.features), "features": text(vinvl_table(regions))}
    return f"{regions.image_id}\t{json.dumps(found)}\n"


def vinvl_predictions(regions: RegionFeatures) -> str:
    objects = [
        {"class": "dog", "conf": float(score), "rect": box.tolist(), "feature": text(feature)}
        for score, box, feature in zip(regions.class_scores, regions.boxes, regions.features, strict=True)
    ]
    found = {"image_h": regions.height, "image_w": regions.width, "num_boxes": len(objects), "objects": objects}
    return f"{regions.image_id}\t{json.dumps(found)}\n"


def vinvl_named(regions: RegionFeatures) -> str:
    """As above, with the names of what was found: the class, and two attributes of which the second is the likelier."""
    name, cell = vinvl_predictions(regions).rstrip().split("\t")
    found = json.loads(cell)
    for item, kind, attribute, score in zip(
        found["objects"], regions.class_ids, regions.attribute_ids, regions.attribute_scores, strict=True
    ):
        item |= {"class": f"class {kind}", "attributes": ["other", f"attribute {attribute}"]}
        item["attr_scores"] = [float(score) / 2, float(score)]
    return f"{name}\t{json.dumps(found)}\n"


def vinvl_numbers() -> dict[str, dict[str, int]]:
    """Names and numbers as ``VG-SGG-dicts-vgoi6-clipped.json`` has them, from 1."""
    return {
        "label_to_idx": {f"class {number}": number + 1 for number in range(1600)},
        "attribute_to_idx": {"other": 500, **{f"attribute {number}": number + 1 for number in range(400)}},
    }


def vinvl_sizes(regions: RegionFeatures) -> str:
    return f"{regions.image_id}\t{json.dumps([{'height': regions.height, 'width': regions.width}])}\n"


def volta_hdf5(file: Path, images: Sequence[RegionFeatures], *, with_sizes: bool = True) -> Path:
    """As VOLTA's ``large_tsv_to_h5.py`` writes it."""
    import h5py

    with h5py.File(file, "w") as opened:
        for regions in images:
            group = opened.create_group(regions.image_id)
            group["features"], group["boxes"] = regions.features, regions.boxes
            group["obj_id"], group["obj_conf"] = regions.class_ids.astype(np.int64), regions.class_scores
            group["attr_id"], group["attr_conf"] = regions.attribute_ids.astype(np.int64), regions.attribute_scores
            if with_sizes:
                group["img_w"], group["img_h"] = regions.width, regions.height
    return file


def volta_from_hdf5(regions: RegionFeatures) -> dict[str, Any]:
    """As VOLTA's ``h5_to_lmdb.py`` converts such a file."""
    return {
        "img_id": regions.image_id,
        "features": regions.features,
        "boxes": regions.boxes,
        "obj_id": regions.class_ids.astype(np.int64),
        "obj_conf": regions.class_scores,
        "attr_id": regions.attribute_ids.astype(np.int64),
        "attr_conf": regions.attribute_scores,
        "img_w": np.int64(regions.width),
        "img_h": np.int64(regions.height),
    }


def gqa(folder: Path, images: Sequence[RegionFeatures], padded: int = 9) -> Path:
    """Two files of images in turn, each padded to as many objects with numbers that must not be read."""
    import h5py

    folder.mkdir(parents=True)
    info = {}
    for number in range(2):
        mine = images[number::2]
        features = np.full((len(mine), padded, images[0].features.shape[1]), 7, np.float32)
        boxes = np.full((len(mine), padded, 4), 9999, np.float32)
        for row, regions in enumerate(mine):
            count = len(regions.features)
            features[row, :count], boxes[row, :count] = regions.features, regions.boxes
            size = {"width": regions.width, "height": regions.height}
            info[regions.image_id] = {"file": number, "idx": row, "objectsNum": count, **size}
        with h5py.File(folder / f"gqa_objects_{number}.h5", "w") as file:
            file["features"], file["bboxes"] = features, boxes
    (folder / "gqa_objects_info.json").write_text(json.dumps(info))
    return folder
