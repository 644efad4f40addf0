"""The whole detector equals the originals, with the weights of either file, at the tolerances of the vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vlrun_detector import anchors
from vlrun_detector.caffe import CaffeProfile
from vlrun_detector.hf import HfProfile
from vlrun_detector.network import Network
from vlrun_detector.profile import Profile
from vlrun_detector.weights import ANCHORS, translate_caffe, translate_hf

pytestmark = pytest.mark.golden

PHOTOS = range(3)
FEATURES, MAPS, LOGITS, PIXELS, PROBABILITIES = 2e-4, 5e-4, 1e-3, 0.02, 2e-4


class Original:
    """One of the two originals: its network, its profile, and what it computes for a photograph."""

    def __init__(self, vectors, state, name: str, profile: Profile) -> None:
        self.arrays, self._pictures = vectors(name), vectors("preprocess")
        short, long = self._pictures["model_short_long"].tolist()
        self.profile = replace(profile, short=short, long=long)
        translate = translate_caffe if name == "caffe_model" else translate_hf
        self.state = translate(state(name))
        self.network = Network.load(self.state, self.state[ANCHORS])

    def picture(self, photo: int):
        return self.profile.prepare(torch.from_numpy(self._pictures[f"small/{photo}/bgr"][..., ::-1].copy()))

    def get(self, photo: int, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"photo/{photo}/{name}"])


@pytest.fixture(scope="module")
def caffe(vectors, state) -> Original:
    return Original(vectors, state, "caffe_model", CaffeProfile())


@pytest.fixture(scope="module")
def hf(vectors, state) -> Original:
    return Original(vectors, state, "hf_model", HfProfile())


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


def order_of(found: Tensor, wanted: Tensor, scores: Tensor) -> Tensor:
    """Where the rows of ``wanted`` are among those of ``found``, the same boxes but for ties.

    The vectors were made in float64; in float32 two proposals whose scores are a rounding error apart change places.
    """
    distances = (wanted[:, None] - found).abs().amax(dim=2)
    order = distances.argmin(dim=1)
    assert order.unique().numel() == len(wanted) == len(found)
    close(distances.amin(dim=1), torch.zeros(len(wanted)), PIXELS)
    moved = order != torch.arange(len(order))
    assert moved.float().mean() < 0.05
    close(scores[order][moved], scores[moved], MAPS)
    return order


@pytest.mark.parametrize("photo", PHOTOS)
def test_every_step_of_the_caffe_original(photo: int, caffe: Original) -> None:
    picture, network = caffe.picture(photo), caffe.network
    assert [picture.height, picture.width] == caffe.get(photo, "input_shape").tolist()
    features = network.map(picture.pixels)
    close(features[0, ::8, ::2, ::2], caffe.get(photo, "res4_sample"), FEATURES)
    logits, deltas = network.proposals(features)
    close(logits[0], caffe.get(photo, "objectness_map"), MAPS)
    close(deltas[0, :, ::3, ::3], caffe.get(photo, "deltas_sample"), MAPS)
    boxes, scores = caffe.profile.propose(logits, deltas, network.anchors, picture)
    boxes = boxes[order_of(boxes, caffe.get(photo, "proposals"), scores)]
    close(scores, caffe.get(photo, "objectness"), MAPS)
    vectors = network.regions(features, boxes, 64)
    close(vectors[::6, ::4], caffe.get(photo, "pooled_sample"), FEATURES)
    class_logits = network.class_logits(vectors)
    close(class_logits, caffe.get(photo, "class_logits"), LOGITS)
    attributes = network.attribute_logits(vectors, class_logits.argmax(dim=1)).softmax(dim=1)
    close(attributes, caffe.get(photo, "attribute_probabilities"), PROBABILITIES)
    kept = caffe.get(photo, "keep")
    wanted = caffe.get(photo, "box_deltas_kept").unflatten(1, (-1, 4))
    for number in (0, 1, wanted.shape[1] - 1):
        found = network.deltas_of(vectors[kept], torch.full((len(kept),), number))
        close(found, wanted[:, number], LOGITS)


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("boxes", ["36-36", "10-100"])
def test_the_regions_of_the_caffe_original(photo: int, boxes: str, caffe: Original) -> None:
    check_caffe(caffe.network, caffe, photo, boxes)


def proposals_in_order(network: Network, original: Original, photo: int) -> Tensor:
    picture = original.picture(photo)
    maps = network.proposals(network.map(picture.pixels))
    boxes, scores = original.profile.propose(*maps, network.anchors, picture)
    return order_of(boxes, original.get(photo, "proposals"), scores)


def check_caffe(network: Network, caffe: Original, photo: int, boxes: str = "36-36", slack: float = 1) -> None:
    least, most = map(int, boxes.split("-"))
    found = replace(caffe.profile, least=least, most=most).detect(network, caffe.picture(photo), 64)
    order = proposals_in_order(network, caffe, photo)
    assert torch.equal(found.keep, order[caffe.get(photo, f"{boxes}/keep")])
    assert torch.equal(found.class_ids, caffe.get(photo, f"{boxes}/objects_id"))
    assert torch.equal(found.attribute_ids, caffe.get(photo, f"{boxes}/attrs_id"))
    close(found.boxes, caffe.get(photo, f"{boxes}/boxes"), slack * PIXELS)
    close(found.class_scores, caffe.get(photo, f"{boxes}/objects_conf"), slack * PROBABILITIES)
    close(found.attribute_scores, caffe.get(photo, f"{boxes}/attrs_conf"), slack * PROBABILITIES)
    if boxes == "36-36":
        close(found.features, caffe.get(photo, f"{boxes}/features"), slack * FEATURES)


@pytest.mark.parametrize("photo", PHOTOS)
def test_every_step_of_the_hugging_face_original(photo: int, hf: Original) -> None:
    picture, network = hf.picture(photo), hf.network
    features = network.map(picture.pixels)
    close(features[0, ::8, ::2, ::2], hf.get(photo, "res4_sample"), FEATURES)
    logits, deltas = network.proposals(features)
    assert not logits[:, :12].any(), "their objectness is that of the foreground alone"
    close(logits[0, 12:], hf.get(photo, "objectness_map"), MAPS)
    close(deltas[0, :, ::3, ::3], hf.get(photo, "deltas_sample"), MAPS)
    boxes, scores = hf.profile.propose(logits, deltas, network.anchors, picture)
    boxes = boxes[order_of(boxes, hf.get(photo, "proposals"), scores)]
    close(scores, hf.get(photo, "objectness"), MAPS)
    vectors = network.regions(features, boxes, 64)
    close(vectors[::6, ::4], hf.get(photo, "pooled_sample"), FEATURES)
    class_logits = network.class_logits(vectors)
    close(class_logits.roll(-1, dims=1), hf.get(photo, "class_logits"), LOGITS)
    attributes = network.attribute_logits(vectors, class_logits.argmax(dim=1))
    close(attributes.roll(-1, dims=1), hf.get(photo, "attribute_logits"), LOGITS)
    kept = hf.get(photo, "keep")
    wanted = hf.get(photo, "box_deltas_kept").unflatten(1, (-1, 4))
    weights = torch.tensor([10.0, 10.0, 5.0, 5.0])
    for number in (0, wanted.shape[1] - 1):
        found = network.deltas_of(vectors[kept], torch.full((len(kept),), number + 1))
        close(found * weights, wanted[:, number], LOGITS)


@pytest.mark.parametrize("photo", PHOTOS)
def test_the_regions_of_the_hugging_face_original(photo: int, hf: Original) -> None:
    check_hf(hf.network, hf, photo)


def check_hf(network: Network, hf: Original, photo: int, slack: float = 1) -> None:
    found = hf.profile.detect(network, hf.picture(photo), 64)
    order = proposals_in_order(network, hf, photo)
    assert torch.equal(found.keep, order[hf.get(photo, "keep")])
    assert torch.equal(found.class_ids, hf.get(photo, "out/obj_ids"))
    assert torch.equal(found.attribute_ids, hf.get(photo, "out/attr_ids"))
    close(found.class_scores, hf.get(photo, "out/obj_probs"), slack * PROBABILITIES)
    close(found.attribute_scores, hf.get(photo, "out/attr_probs"), slack * PROBABILITIES)
    close(found.boxes, hf.get(photo, "out/boxes"), slack * PIXELS)
    close(found.features, hf.get(photo, "out/roi_features"), slack * FEATURES)


def test_both_files_hold_the_same_network(caffe: Original, hf: Original) -> None:
    """All but the proposals' scores, of which one file has only the difference."""
    assert caffe.state.keys() == hf.state.keys()
    by_size = torch.arange(12).view(3, 4).T.flatten()
    for name, tensor in caffe.state.items():
        theirs = hf.state[name]
        if name == ANCHORS:
            ours = tensor[by_size]
        elif "objectness" in name:
            background, foreground = tensor.chunk(2)
            ours = torch.cat([torch.zeros_like(background), (foreground - background)[by_size]])
        elif "anchor_deltas" in name:
            ours = tensor.unflatten(0, (12, 4))[by_size].flatten(0, 1)
        elif "bbox_pred" in name:
            ours, theirs = tensor[4:], theirs[4:]
        else:
            ours = tensor
        close(theirs, ours, 5e-5)


@pytest.mark.parametrize("photo", PHOTOS)
def test_either_file_serves_either_profile(photo: int, caffe: Original, hf: Original) -> None:
    # the files are rounded to integers in different ways, so their weights differ by 5e-5
    check_caffe(hf.network, caffe, photo, slack=5)
    check_hf(caffe.network, hf, photo, slack=5)


def test_the_anchors_of_both_files_are_recognised(caffe: Original, hf: Original) -> None:
    for original in (caffe, hf):
        kind, used = anchors.recognised(original.state[ANCHORS])
        assert kind == "caffe"
        assert torch.equal(used, original.state[ANCHORS])
    short = anchors.recognised(anchors.to_inclusive(anchors.caffe_anchors()))
    assert short[0] == "caffe, a pixel short"
    assert torch.equal(short[1], anchors.caffe_anchors())
    assert anchors.recognised(anchors.to_inclusive(anchors.hf_anchors()))[0] == "generated"
    assert anchors.recognised(anchors.caffe_anchors() * 0.5) is None
    assert anchors.recognised(anchors.caffe_anchors()[:9]) is None


def test_the_number_of_regions_at_once_changes_nothing(caffe: Original) -> None:
    picture = caffe.picture(0)
    one, other = (caffe.profile.detect(caffe.network, picture, number) for number in (7, 300))
    assert torch.equal(one.keep, other.keep)
    close(one.features, other.features, 1e-5)


def test_what_half_precision_costs(caffe: Original) -> None:
    """The features of the same boxes, through the whole network in bfloat16, differ by about a per cent."""
    pixels, boxes = caffe.picture(0).pixels, caffe.get(0, "proposals")
    network = Network.load(caffe.state, caffe.state[ANCHORS]).in_half()
    whole = caffe.network.regions(caffe.network.map(pixels), boxes, 64)
    half = network.regions(network.map(pixels), boxes, 64)
    assert half.dtype == torch.float32
    distance = ((half - whole).norm(dim=1) / whole.norm(dim=1)).mean()
    assert 0.001 < distance < 0.02
    found = caffe.profile.detect(network, caffe.picture(0), 64)
    assert len(found.keep) == caffe.profile.most
