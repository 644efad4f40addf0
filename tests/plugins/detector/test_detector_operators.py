"""Anchors, boxes, suppression, pooling and selection equal those of the originals; and of plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlrun.blocks.proposals import clip, decode, grid, nms, overlaps, too_close, torchvision_operators
from vlrun_detector import anchors
from vlrun_detector.caffe import CaffeProfile
from vlrun_detector.hf import HfProfile
from vlrun_detector.network import BINS, STRIDE, Network, Sizes, Stage
from vlrun_detector.operators import RegionPooling, best_surviving
from vlrun_detector.profile import Prepared

pytestmark = pytest.mark.golden

SELECT = ("between_10_and_100", "exactly_36", "fewer_than_10", "fewer_than_36", "more_than_100", "more_than_36")


@pytest.fixture(scope="module")
def given(vectors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in vectors("operators").items()}


def picture(height: int, width: int, scale: float = 1.0) -> Prepared:
    return Prepared(torch.zeros(1, 3, height, width), scale, scale)


def test_anchors_are_those_of_the_originals(given) -> None:
    assert torch.equal(anchors.caffe_anchors(), given["anchors/caffe_cell"])
    assert torch.equal(anchors.caffe_anchors((8, 16, 32)), given["anchors/caffe_cell_scales_8_16_32"])
    torch.testing.assert_close(anchors.hf_anchors(), given["anchors/hf_cell"], rtol=1e-6, atol=0)
    for kind, cell in (("caffe", anchors.caffe_anchors()), ("hf", given["anchors/hf_cell"])):
        assert torch.equal(grid(cell, 3, 5, STRIDE), given[f"anchors/{kind}_grid_3x5"])


@pytest.mark.parametrize(("name", "inclusive"), [("hf", False), ("caffe_mode", True)])
def test_boxes_are_decoded_and_clipped_as_in_the_originals(given, name: str, inclusive: bool) -> None:
    boxes, deltas = given["decode/boxes"], given["decode/deltas"]
    found = torch.cat([decode(boxes, part, inclusive=inclusive) for part in deltas.split(4, dim=1)], dim=1)
    torch.testing.assert_close(found, given[f"decode/{name}_unit"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, given[f"decode/{name}_10_10_5_5"], rtol=1e-5, atol=1e-5)
    if inclusive:
        torch.testing.assert_close(found[3:], given["decode/original_caffe_rows_3_on"], rtol=1e-5, atol=1e-5)
    height, width = given["clip/height_width"].tolist()
    clipped = clip(given["clip/boxes"], height, width, inclusive=inclusive)
    assert torch.equal(clipped, given["clip/caffe" if inclusive else "clip/hf"])


@pytest.mark.parametrize("threshold", ["0.3", "0.5", "0.6", "0.7"])
@pytest.mark.parametrize("inclusive", [False, True])
def test_the_same_boxes_survive(given, threshold: str, inclusive: bool) -> None:
    boxes, scores = given["nms/boxes"], given["nms/scores"]
    wanted = given[f"nms/{threshold}/{'plus_one' if inclusive else 'plain'}"]
    assert torch.equal(nms(boxes, scores, float(threshold), len(boxes), inclusive=inclusive), wanted)
    assert torch.equal(nms(boxes, scores, float(threshold), 5, inclusive=inclusive), wanted[:5])


def test_proposals_of_caffe(given) -> None:
    height, width, candidates, number = given["rpn/height_width_prenms_postnms"].tolist()
    profile = CaffeProfile(candidates=candidates, proposals=number)
    boxes, scores = profile.propose(
        given["rpn/logits"],
        given["rpn/deltas"],
        given["anchors/caffe_cell"],
        picture(height, width, float(given["rpn/im_scale"])),
    )
    torch.testing.assert_close(boxes, given["rpn/caffe_mode_boxes"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(boxes, given["rpn/original_caffe_boxes"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(scores, given["rpn/caffe_mode_scores"], rtol=0, atol=2e-6)


def test_proposals_of_hugging_face(given) -> None:
    height, width, candidates, number = given["rpn/height_width_prenms_postnms"].tolist()
    by_size = torch.arange(12).view(3, 4).T.flatten()
    logits = given["rpn/logits"].unflatten(1, (2, 12))[:, :, by_size].flatten(1, 2)
    deltas = given["rpn/deltas"].unflatten(1, (12, 4))[:, by_size].flatten(1, 2)
    profile = HfProfile(candidates=candidates, proposals=number)
    cell = anchors.to_inclusive(given["anchors/hf_cell"])
    boxes, scores = profile.propose(logits, deltas, cell, picture(height, width))
    torch.testing.assert_close(boxes, given["rpn/hf_boxes"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(scores, given["rpn/hf_scores"], rtol=0, atol=2e-6)


def test_regions_are_pooled_to_the_last_bit(given) -> None:
    pool = RegionPooling(BINS, STRIDE)
    found = pool(given["pool/map"], given["pool/boxes"])
    assert torch.equal(found, given["pool/roi_pool_14"])
    few = pool(given["pool/map"], given["pool/boxes"][:3])
    assert torch.equal(few, given["pool/roi_pool_14"][:3]), "memory of the picture before shows through"


@pytest.mark.parametrize("case", SELECT)
def test_the_same_regions_are_chosen_by_caffe(given, case: str) -> None:
    least, most = given[f"select/{case}/min_max"].tolist()
    profile = CaffeProfile(least=least, most=most)
    boxes = given[f"select/{case}/rois"] / given["select/im_scale"]
    probabilities = given[f"select/{case}/scores"][:, 1:]
    keep = profile.kept(boxes, probabilities)
    assert torch.equal(keep, given[f"select/{case}/keep"])
    attributes = given[f"select/{case}/attributes"][keep, 1:]
    found = profile.chosen(keep, boxes, boxes, probabilities, attributes)
    torch.testing.assert_close(found.boxes, given[f"select/{case}/boxes"], rtol=0, atol=1e-4)
    for name, tensor in (
        ("objects_id", found.class_ids),
        ("objects_conf", found.class_scores),
        ("attrs_id", found.attribute_ids),
        ("attrs_conf", found.attribute_scores),
    ):
        assert torch.equal(tensor, given[f"select/{case}/{name}"]), name


@pytest.mark.parametrize("case", ["first_threshold", "later_threshold", "none"])
def test_the_same_regions_are_chosen_by_hugging_face(given, case: str) -> None:
    profile = HfProfile()
    scores, labels = given[f"select_hf/{case}/scores"][:, :-1].max(dim=1)
    boxes = given[f"select_hf/{case}/boxes"].unflatten(1, (-1, 4))[torch.arange(len(labels)), labels]
    height, width = given[f"select_hf/{case}/height_width"].tolist()
    boxes = clip(boxes, height, width, inclusive=False)
    keep = profile.kept(boxes, scores)
    if given[f"select_hf/{case}/threshold_used"] < 0:
        assert 0 < len(keep) < profile.least, "the original fails here; there are fewer regions"
        return
    assert torch.equal(keep, given[f"select_hf/{case}/keep"])
    assert torch.equal(boxes[keep], given[f"select_hf/{case}/out_boxes"])
    assert torch.equal(scores[keep], given[f"select_hf/{case}/out_scores"])
    assert torch.equal(labels[keep], given[f"select_hf/{case}/out_classes"])


class ToldAttributes:
    """A network of which every region is sure, and that says these attribute logits."""

    def __init__(self, attributes: Tensor) -> None:
        self._attributes = attributes

    def class_logits(self, vectors: Tensor) -> Tensor:
        return torch.arange(len(vectors), dtype=torch.float32)[:, None] + torch.tensor([0.0, 10.0])

    def deltas_of(self, vectors: Tensor, classes: Tensor) -> Tensor:
        return torch.zeros(len(vectors), 4)

    def attribute_logits(self, vectors: Tensor, classes: Tensor) -> Tensor:
        assert (classes == 1).all()
        return self._attributes[vectors.flatten().long()]


@pytest.mark.parametrize(("name", "kind"), [("caffe", CaffeProfile), ("hf", HfProfile)])
def test_attributes_are_scored_beside_or_without_none(given, name: str, kind: type) -> None:
    none_last = given["attributes/logits"]
    number = len(none_last)
    corners = torch.arange(number)[:, None] * 40.0
    boxes = torch.cat([corners, corners, corners + 30, corners + 30], dim=1)
    network = ToldAttributes(none_last.roll(1, dims=1))
    found = kind(least=number, most=number).choose(network, boxes, torch.arange(number)[:, None], picture(500, 500))
    rows = found.features.flatten().long()
    assert rows.sort().values.tolist() == list(range(number))
    assert torch.equal(found.attribute_ids, given[f"attributes/{name}_id"][rows])
    torch.testing.assert_close(found.attribute_scores, given[f"attributes/{name}_conf"][rows], rtol=0, atol=1e-6)


def test_the_map_has_the_size_that_the_originals_give_it(given) -> None:
    sizes = Sizes(2, Stage(1, 2, 2), Stage(1, 2, 2), Stage(1, 2, 2), Stage(1, 2, 2), 2, 1, 2, 2, 2, 2)
    network = Network(sizes)
    for height, width, rows, columns in given["feature_sizes"].tolist():
        assert network.map(torch.zeros(1, 3, height, width)).shape[2:] == (rows, columns)


def random_boxes(number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 300
    return torch.cat([corners, corners + 5 + torch.rand(number, 2, generator=generator) * 120], dim=1)


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float, inclusive: bool) -> list[int]:
    kept: list[int] = []
    found = overlaps(boxes, boxes, inclusive=inclusive).double().numpy()
    for index in scores.sort(descending=True, stable=True).indices.tolist():
        if (found[index, kept] <= threshold).all():
            kept.append(index)
    return kept


@pytest.mark.parametrize("seed", range(20))
def test_suppression_equals_a_plain_loop(seed: int) -> None:
    boxes = random_boxes(1200 if seed < 2 else 60, seed)
    scores = (torch.rand(len(boxes), generator=torch.Generator().manual_seed(seed)) * 50).round()  # many are equal
    for threshold in (0.3, 0.7):
        for inclusive in (True, False):
            found = nms(boxes, scores, threshold, len(boxes), inclusive=inclusive)
            assert found.tolist() == plain_nms(boxes, scores, threshold, inclusive)


def test_exactly_at_the_threshold_the_rules_differ() -> None:
    plain = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 5.0, 10.0]])  # overlap 0.5
    scores = torch.tensor([2.0, 1.0])
    assert nms(plain, scores, 0.5, 9, inclusive=False).tolist() == [0, 1]
    inclusive = anchors.to_inclusive(plain)
    assert nms(inclusive, scores, 0.5, 9, inclusive=True).tolist() == [0]


@pytest.mark.parametrize("lowest", [0.0, 0.01, 0.1])
def test_the_best_surviving_class_equals_a_loop_over_classes(lowest: float) -> None:
    boxes = random_boxes(80, 3)
    logits = torch.randn(80, 50, generator=torch.Generator().manual_seed(4)) * 2
    probabilities = logits.softmax(dim=1)
    wanted = torch.zeros(80)
    for column in probabilities.T:
        kept = nms(boxes, column, 0.3, len(boxes), inclusive=True)
        wanted[kept] = torch.maximum(wanted[kept], column[kept])
    found = best_surviving(too_close(boxes, boxes, 0.3, inclusive=True), probabilities, lowest)
    sure = wanted >= lowest
    assert torch.equal(found[sure], wanted[sure])
    assert (found[~sure] < lowest).all()
    assert int(sure.sum()) > 20


def test_a_number_just_below_a_half_is_rounded_down() -> None:
    below = torch.tensor([0.5]).nextafter(torch.tensor([0.0])).item()
    features = torch.arange(25.0).view(1, 1, 5, 5)
    box = torch.tensor([[0.0, 0.0, below * STRIDE, below * STRIDE]])
    assert RegionPooling(2, STRIDE)(features, box).flatten().tolist() == [0.0] * 4


def test_torchvision_gives_the_same_where_it_imports(given) -> None:
    theirs = torchvision_operators()
    if theirs is None:
        pytest.skip("torchvision does not import beside this torch")
    last_pixel = torch.tensor([0.0, 0.0, 1.0, 1.0])
    for seed in range(50):
        boxes = random_boxes(100, seed)
        scores = torch.rand(100, generator=torch.Generator().manual_seed(seed))
        for threshold in (0.3, 0.5, 0.7):
            ours = [nms(boxes, scores, threshold, 100, inclusive=inclusive) for inclusive in (False, True)]
            assert torch.equal(ours[0], theirs.nms(boxes, scores, threshold))
            assert torch.equal(ours[1], theirs.nms(boxes + last_pixel, scores, threshold))
    pooled = theirs.roi_pool(given["pool/map"], [given["pool/boxes"]], BINS, 1 / STRIDE)
    assert torch.equal(pooled, RegionPooling(BINS, STRIDE)(given["pool/map"], given["pool/boxes"]))
