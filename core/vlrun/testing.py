"""Checks for plugin authors to call from their tests.

``check_plugin``, ``check_backbone``, ``check_task``, ``private_imports``, ``run_ranks``; ``StubBackbone``.
"""

from __future__ import annotations

import ast
import copy
import json
import pickle
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from vlrun.blocks.attention import record_attention
from vlrun.config.components import check_references
from vlrun.engine.model import TaskModel
from vlrun.engine.ranks import Ranks
from vlrun.interfaces.backbone import Backbone, PairEncoder, PairNetwork
from vlrun.interfaces.examples import Example, Pair, RegionBatch
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import BackboneOutput, Batch, Encoding, in_full_precision, on_cpu
from vlrun.plugins.manager import create_plugins
from vlrun.seeds import example_rng

PUBLIC = (
    "vlrun",
    "vlrun.blocks.answering",
    "vlrun.blocks.answers",
    "vlrun.blocks.attention",
    "vlrun.blocks.boxes",
    "vlrun.blocks.dropout",
    "vlrun.blocks.heads",
    "vlrun.blocks.pair_encoding",
    "vlrun.blocks.pair_scoring",
    "vlrun.blocks.pictures",
    "vlrun.blocks.predictions",
    "vlrun.blocks.proposals",
    "vlrun.blocks.sign_test",
    "vlrun.blocks.wordpiece",
    "vlrun.cli.arguments",
    "vlrun.cli.detectors",
    "vlrun.data.annotations",
    "vlrun.data.json_stream",
    "vlrun.data.splits",
    "vlrun.data.submissions",
    "vlrun.files",
    "vlrun.runs.again",
    "vlrun.seeds",
    "vlrun.testing",
)
"""The modules that plugins may import. Everything else may change at any time."""

_TOLERANCE, _NUM_WORDS = 1e-5, 97
_TEXT_FIELDS = ("text_mask", "token_ids", "position_ids")  # the mask comes first
_REGION_FIELDS = ("region_mask", "region_features", "boxes")


def private_imports(folder: Path) -> list[str]:
    """Every import of something private in vlrun, in the files of a plugin below ``folder``; one line each."""
    problems = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module, name, line in _imports(node):
                if module.split(".")[0] != "vlrun":
                    continue
                if module not in PUBLIC and f"{module}.{name}" not in PUBLIC:
                    problems.append(f"{path}:{line}: {module} is not public")
                elif name.startswith("_") and not name.startswith("__"):
                    problems.append(f"{path}:{line}: {module}.{name} is not public")
    return problems


def _imports(node: ast.AST) -> list[tuple[str, str, int]]:
    """(module, name, line) of an import statement."""
    if isinstance(node, ast.Import):
        return [(alias.name, "", node.lineno) for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [(node.module, alias.name, node.lineno) for alias in node.names]
    return []


def make_regions(image_ids: Sequence[str], feature_size: int, num_regions: int = 5, seed: int = 0) -> RegionBatch:
    """Makes random region features with boxes inside 640 x 480 images; about half of the images have one region less.

    The regions of an image depend only on its id and the seed, so an id may be asked for again.
    """
    features = np.zeros((len(image_ids), num_regions, feature_size), np.float16)
    boxes = np.zeros((len(image_ids), num_regions, 4), np.float32)
    mask = np.zeros((len(image_ids), num_regions), bool)
    for row, image_id in enumerate(image_ids):
        rng = np.random.default_rng([seed, *image_id.encode()])
        count = num_regions - sum(image_id.encode()) % 2
        corner = rng.uniform(0, (400, 300), (count, 2))
        features[row, :count] = rng.normal(size=(count, feature_size))
        boxes[row, :count] = np.concatenate([corner, corner + rng.uniform(20, 150, (count, 2))], axis=1)
        mask[row, :count] = True
    sizes = np.tile(np.array([[480.0, 640.0]], np.float32), (len(image_ids), 1))
    return RegionBatch(tuple(image_ids), features, boxes, mask, sizes)


class StubBackbone(Backbone):
    """A small backbone for the tests of tasks: words and regions matter, and nothing has to be read from disk."""

    def __init__(self, hidden_size: int = 16, region_feature_size: int = 8) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.words = nn.Embedding(_NUM_WORDS, hidden_size)
        self.regions = nn.Linear(region_feature_size + 4, hidden_size)
        self.match = nn.Linear(hidden_size, 2)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        return partial(_hashed_words, max_text_tokens=max_text_tokens)

    def forward(self, encoding: Encoding) -> BackboneOutput:
        """The mean of the words times every region: text (P, L, H), regions (P, R, H), pooled (P, H)."""
        text = self.words(encoding.token_ids) * encoding.text_mask[..., None]
        sentence = text.sum(1) / encoding.text_mask.sum(1, keepdim=True)
        features = torch.cat([encoding.region_features.to(text.dtype), encoding.boxes], -1)
        regions = torch.tanh(self.regions(features) * sentence[:, None]) * encoding.region_mask[..., None]
        pooled = regions.sum(1) / encoding.region_mask.sum(1, keepdim=True)
        return BackboneOutput(text, regions, pooled, encoding.text_mask, encoding.region_mask)

    def matching_head(self) -> nn.Module:
        return self.match


def _hashed_words(pairs: Sequence[Pair], regions: RegionBatch, max_text_tokens: int) -> Encoding:
    rows = [torch.tensor([zlib.crc32(word.encode()) % _NUM_WORDS for word in pair.text.split()]) for pair in pairs]
    rows = [row[:max_text_tokens] if len(row) else torch.zeros(1, dtype=torch.int64) for row in rows]
    return Encoding(
        token_ids=nn.utils.rnn.pad_sequence(rows, batch_first=True),
        text_mask=nn.utils.rnn.pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True),
        region_features=torch.from_numpy(regions.features),
        boxes=torch.from_numpy(regions.boxes / np.tile(regions.sizes[:, ::-1], 2)[:, None]),
        region_mask=torch.from_numpy(regions.mask),
    )


def check_backbone(backbone: Backbone, texts: Sequence[str], feature_size: int, max_text_tokens: int = 20) -> None:
    """Asserts what the core relies on in a backbone.

    The pair encoder is picklable and not random; shapes and masks are as stated; padding does not change the pooled
    output; the parts and ``pooled_output``, also ``for_scoring``, give the same pooled output as ``forward``; attention
    that is shown is that of tokens to regions; weights survive saving and loading; the matching head has two classes
    and is part of the network from the start.
    """
    pairs = [Pair(text, f"image_{index}") for index, text in enumerate(texts)]
    regions = make_regions([pair.image_id for pair in pairs], feature_size)
    encode = backbone.pair_encoder(max_text_tokens)
    encoding = encode(pairs, regions)
    again = pickle.loads(pickle.dumps(encode))(pairs, regions)  # noqa: S301 - our own object
    _assert_equal_fields(
        encoding, again, _TEXT_FIELDS + _REGION_FIELDS, "the pair encoder changes {} from call to call"
    )
    _check_encoding(encoding, len(pairs), max_text_tokens)

    backbone.eval()
    parts = {id(parameter) for parameter in backbone.parameters()}
    head = backbone.matching_head()
    assert all(id(parameter) in parts for parameter in head.parameters()), "build the matching head with the network"
    assert head is backbone.matching_head(), "the matching head must be the same at each call"
    with torch.inference_mode(), record_attention(encoding) as record:
        output = backbone(encoding)
        logits = head(output.pooled)
    num_pairs, length = encoding.token_ids.shape
    width = backbone.hidden_size
    assert output.text.shape == (num_pairs, length, width), "text must be (P, L, H)"
    assert output.regions.shape == (num_pairs, encoding.region_mask.shape[1], width), "regions must be (P, R, H)"
    assert output.pooled.shape == (num_pairs, width), "pooled must be (P, H)"
    assert logits.shape == (num_pairs, 2), "the matching head must give (P, 2) logits"
    assert (shares := record.shares()) is None or shares.shape == (num_pairs, length, encoding.region_mask.shape[1]), (
        "queries that show regions begin with the tokens, and keys end with the regions"
    )
    _check_padding(backbone, encode, pairs, regions, output.pooled)
    for network in filter(None, (backbone, backbone.for_scoring(next(backbone.parameters()).dtype))):
        _check_parts(backbone, network, encode, pairs, regions)
    _check_weights_round_trip(backbone)


def check_plugin(module: str) -> None:
    """Asserts that the entry-point module of a plugin can be loaded, and that everything it names can be imported."""
    plugins = create_plugins([EntryPoint("checked", module, "vlrun")])
    check_references(plugins)
    (record,) = plugins.records
    assert record.status == "ok", "\n".join(record.reasons)
    assert record.offers, f"{module} offers nothing"


def check_task(
    task: Task[Any],
    backbone: Backbone,
    examples: Sequence[Example[Any]],
    regions: RegionBatch,
    *,
    may_read_values: bool = False,
) -> Batch:
    """Asserts what the core relies on in a task, and returns the batch that was used; needs at least two examples.

    The task is picklable; losses are sums, so those of two halves of a batch add up; losses and counts have the same
    names; every example gets one prediction, in order, that JSON can express; the head gets a gradient; forward pass,
    loss and backward pass read no value of a tensor and make none on another device, so that a GPU never waits
    (``may_read_values`` allows it, at that price).
    """
    batch = make_batch(task, backbone, examples, regions)
    head = task.build_head(backbone)
    whole, counts = _losses(task, backbone, head, batch)
    assert set(whole) == set(counts), "loss and loss_counts must name the same losses"
    assert all(value.ndim == 0 for value in whole.values()), "losses must be scalars"

    middle = len(examples) // 2
    parts = [make_batch(task, backbone, part, regions) for part in (examples[:middle], examples[middle:])]
    for name, value in whole.items():
        halves = [_losses(task, backbone, head, part) for part in parts]
        total = sum(losses[name].item() for losses, _ in halves)
        assert abs(total - value.item()) <= _TOLERANCE * max(1.0, abs(total)), f"loss '{name}' must be a sum over items"
        assert float(counts[name]) == sum(float(part_counts[name]) for _, part_counts in halves), (
            f"count '{name}' must add up"
        )

    torch.stack([value / max(1.0, float(counts[name])) for name, value in whole.items()]).sum().backward()  # type: ignore[no-untyped-call]
    assert any(parameter.grad is not None for parameter in head.parameters()), "the head gets no gradient"
    if not may_read_values:
        _check_nothing_is_read(task, backbone, head, batch)
    with torch.inference_mode():
        decoded = task.decode(in_full_precision(head.eval()(backbone.eval()(batch.encoding))), batch)
        predictions = task.predict(on_cpu(decoded), batch)
    assert [prediction.id for prediction in predictions] == [example.id for example in examples]
    json.dumps([prediction.as_json() for prediction in predictions], allow_nan=False)
    return batch


def make_batch(task: Task[Any], backbone: Backbone, examples: Sequence[Example[Any]], regions: RegionBatch) -> Batch:
    """Makes a batch as the loader does; ``regions`` must hold every image of the examples."""
    task = pickle.loads(pickle.dumps(task))  # noqa: S301 - workers get a copy of the task like this
    pairs = [pair for index, example in enumerate(examples) for pair in task.pairs(example, example_rng(0, 0, index))]
    chosen = _rows(regions, [regions.image_ids.index(pair.image_id) for pair in pairs])
    encoding = backbone.pair_encoder(20)(pairs, chosen)
    return Batch(tuple(example.id for example in examples), encoding, task.collate(examples, chosen, encoding))


def run_ranks(body: Callable[[Ranks], Any], folder: Path, world_size: int = 2) -> list[Any]:
    """Runs ``body`` on ``world_size`` ranks on the CPU and returns their results by rank.

    The ranks are forked: with torch imported that takes a fraction of a second, and spawning takes several.

    Raises:
        AssertionError: a rank failed; the message holds its traceback.
    """
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # so that its slow imports happen before the fork
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    store = folder / "ranks-store"
    store.unlink(missing_ok=True)
    children = [
        context.Process(target=_rank, args=(rank, world_size, store, body, results)) for rank in range(world_size)
    ]
    for child in children:
        child.start()
    collected = dict(results.get() for _ in children)
    for child in children:
        child.join(timeout=60)
    failures = [str(value) for failed, value in collected.values() if failed]
    assert not failures, "\n".join(failures)
    return [pickle.loads(collected[rank][1]) for rank in range(world_size)]  # noqa: S301 - of our own children


def _rank(rank: int, world_size: int, store: Path, body: Callable[[Ranks], Any], results: Any) -> None:
    torch.set_num_threads(1)  # OpenMP threads do not survive a fork
    meeting = dist.FileStore(str(store), world_size)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=world_size)
    try:
        value = body(Ranks(rank, world_size, torch.device("cpu"), dist.new_group(backend="gloo"), meeting))
        results.put((rank, (False, pickle.dumps(value))))  # by value: tensors in shared memory go with their rank
        dist.barrier()  # a rank that leaves early aborts the others
    except BaseException:
        results.put((rank, (True, traceback.format_exc())))
    finally:
        dist.destroy_process_group()


def _losses(task: Task[Any], backbone: Backbone, head: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Any]:
    backbone.eval()
    outputs = in_full_precision(head.eval()(backbone(batch.encoding)))
    return task.loss(outputs, batch.targets), task.loss_counts(batch.targets)


def _check_nothing_is_read(task: Task[Any], backbone: Backbone, head: nn.Module, batch: Batch) -> None:
    """Takes a step on torch's device without memory, where values cannot be read and other devices do not fit."""
    network, moved = copy.deepcopy(TaskModel(backbone, {"task": head})).to("meta").train(), batch.to("meta")
    try:
        losses = task.loss(in_full_precision(network("task", moved.encoding)), moved.targets)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    except (NotImplementedError, RuntimeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = [frame for frame in frames if "/torch/" not in frame.filename][-1]
        raise AssertionError(
            f"{place.filename}:{place.lineno}: forward pass and loss must not read values of tensors (item, tolist, "
            f"boolean indices, branches on them) nor mix devices: {str(error).splitlines()[0]}"
        ) from error


def _check_encoding(encoding: Encoding, num_pairs: int, max_text_tokens: int) -> None:
    assert len(encoding.token_ids) == num_pairs, "one row per pair"
    assert encoding.token_ids.shape[1] <= max_text_tokens, "texts must be cut to max_text_tokens"
    for mask, full in ((encoding.text_mask, encoding.full_texts), (encoding.region_mask, encoding.full_regions)):
        assert mask.dtype == torch.bool, "masks are boolean, True for what is real"
        assert mask.all() or not full, "full_texts and full_regions are True only where nothing is padded"
    assert encoding.text_mask.any(dim=1).all(), "every text has a token"
    assert encoding.region_mask.any(dim=1).all(), "every image has a region"


def _check_padding(backbone: Backbone, encode: Any, pairs: list[Pair], regions: RegionBatch, pooled: Tensor) -> None:
    """Asserts that a pair alone, without padding, gives the same pooled output as in a batch."""
    for row, pair in enumerate(pairs):
        with torch.inference_mode():
            output = backbone(encode([pair], _rows(regions, [row])))
        assert torch.allclose(output.pooled[0], pooled[row], atol=_TOLERANCE), f"padding changes the output of {pair}"


@torch.inference_mode()
def _check_parts(
    backbone: Backbone, network: PairNetwork, encode: PairEncoder, pairs: list[Pair], regions: RegionBatch
) -> None:
    """Asserts that a network's ``pooled_output`` is ``forward``'s, whatever image or text each part was made with."""
    count, encoding = len(pairs), encode(pairs, regions)
    other_regions = make_regions(["placeholder"] * count, regions.features.shape[-1], num_regions=2, seed=1)
    texts = encode(pairs, other_regions)
    images = encode([Pair(pairs[0].text, pair.image_id) for pair in pairs], regions)
    _assert_equal_fields(texts, encoding, _TEXT_FIELDS, "the {} of an encoding must not depend on the regions")
    _assert_equal_fields(images, encoding, _REGION_FIELDS, "the {} of an encoding must not depend on the texts")

    def assert_pooled(text: Mapping[str, Tensor], region: Mapping[str, Tensor], pooled: Tensor, which: str) -> None:
        output = network.pooled_output(text, region)
        assert output.shape == pooled.shape, f"pooled_output must give (P, H), for {which}"
        assert torch.allclose(output, pooled, atol=_TOLERANCE), f"pooled_output is not forward's pooled, for {which}"

    text_part, region_part = network.text_part(texts), network.region_part(images)
    for name, tensor in {**text_part, **region_part}.items():
        assert len(tensor) == count, f"'{name}' of a part must have one row per text or image"
    assert_pooled(text_part, region_part, backbone(encoding).pooled, "padded texts and regions")
    for row, pair in enumerate(pairs):
        text = _part_without_padding(network.text_part, texts, row, _TEXT_FIELDS)
        pooled = backbone(encode([pair] * count, regions)).pooled
        assert_pooled(_expanded(text, count), region_part, pooled, f"{pair} without padding, expanded")
        region = _part_without_padding(network.region_part, images, row, _REGION_FIELDS)
        pooled = backbone(encode(pairs, _rows(regions, [row] * count))).pooled
        assert_pooled(text_part, _expanded(region, count), pooled, f"the regions of {pair} without padding, expanded")
        assert_pooled(text, region, pooled[row : row + 1], f"{pair} and its regions without padding")


def _part_without_padding(
    make_part: Callable[[Encoding], dict[str, Tensor]], encoding: Encoding, row: int, fields: Sequence[str]
) -> dict[str, Tensor]:
    """The part of one text or image, without padding and so without a mask."""
    real = getattr(encoding, fields[0])[row]
    values = {name: getattr(encoding, name) for name in fields}
    unpadded: dict[str, Any] = {name: value[row : row + 1, real] for name, value in values.items() if value is not None}
    return {name: tensor for name, tensor in make_part(replace(encoding, **unpadded)).items() if name != fields[0]}


def _expanded(part: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in part.items()}


def _rows(regions: RegionBatch, rows: Sequence[int]) -> RegionBatch:
    return RegionBatch(
        tuple(regions.image_ids[row] for row in rows),
        regions.features[rows],
        regions.boxes[rows],
        regions.mask[rows],
        regions.sizes[rows],
    )


def _check_weights_round_trip(backbone: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.load_state_dict(before)
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(tensor.isnan().any() for tensor in before.values()), "the initial weights have NaN"


def _assert_equal_fields(first: Encoding, second: Encoding, names: Sequence[str], message: str) -> None:
    for name in names:
        one, other = getattr(first, name), getattr(second, name)
        is_same = one is other if one is None or other is None else torch.equal(one, other)
        assert is_same, message.format(name)
