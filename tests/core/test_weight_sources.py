"""Weights are found in files, folders, parts and on the hub; what is half there is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy_weights import toy_tensors

from vlrun.engine.weight_files import import_weights, read_imported, read_source
from vlrun.engine.weight_sources import find_source
from vlrun.errors import CheckpointError, UsageError
from vlrun.files import sha256_of
from vlrun.plugins.entries import WeightFormat

constants = pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FLAT = WeightFormat(
    name="flat", backbone="toy", summary="", translator="builtins:dict", licence="of the format", seen=("a", "b")
)
CARD = "---\nlicense: mit\n---\n# A model\n"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]


def repository(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A folder as ``save_pretrained`` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors or toy_tensors(), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "toy", "num_attention_heads": 3}))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    (folder / "README.md").write_text(CARD)
    return folder


def in_parts(folder: Path) -> Path:
    """The same in two parts with an index; returns the index."""
    repository(folder)
    (folder / "model.safetensors").unlink()
    tensors, places = toy_tensors(), {}
    for number, names in enumerate((list(tensors)[:100], list(tensors)[100:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_a_folder_is_read_with_what_lies_beside_the_weights(tmp_path: Path) -> None:
    folder = repository(tmp_path / "some-model")

    source = find_source(folder)

    assert source.label == "some-model/model.safetensors"
    assert source.config["num_attention_heads"] == 3
    assert (source.vocabulary, source.licence) == (folder / "vocab.txt", "mit")


def test_an_import_records_source_hash_licence_and_images(tmp_path: Path) -> None:
    folder = repository(tmp_path / "some-model")

    import_weights(folder, tmp_path / "toy.safetensors", FLAT)
    _, metadata = read_imported(tmp_path / "toy.safetensors")

    assert metadata["source_sha256"] == sha256_of(folder / "model.safetensors")
    assert (metadata["licence"], metadata["pretraining_sets"]) == ("mit", ["a", "b"])


def test_what_the_user_says_of_the_licence_goes_first_and_the_format_last(tmp_path: Path) -> None:
    folder = repository(tmp_path / "some-model")
    said = import_weights(folder, tmp_path / "a.safetensors", FLAT, licence="mine")
    (folder / "README.md").write_text("no head at all")
    silent = import_weights(folder, tmp_path / "b.safetensors", FLAT)

    assert (said.licence, silent.licence) == ("mine", "of the format")


@pytest.mark.parametrize("named", ["folder", "index"])
def test_parts_are_read_as_one(tmp_path: Path, named: str) -> None:
    index = in_parts(tmp_path / "parts")

    source = find_source(index.parent if named == "folder" else index)
    content, _ = read_source(source)

    assert sorted(content) == sorted(toy_tensors())
    assert torch.equal(content["layers.150"], toy_tensors()["layers.150"])


def test_one_part_alone_is_refused_and_the_index_named(tmp_path: Path) -> None:
    index = in_parts(tmp_path / "parts")

    with pytest.raises(CheckpointError, match=r"one part of 2, .* or its model\.safetensors\.index\.json"):
        find_source(index.with_name("model-00001-of-00002.safetensors"))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    index = in_parts(tmp_path / "parts")
    index.with_name("model-00002-of-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"1 of 2 parts are not there: model-00002-of-00002\.safetensors"):
        find_source(index)


def test_a_tensor_that_is_in_no_part_is_named(tmp_path: Path) -> None:
    index = in_parts(tmp_path / "parts")
    save_file({"layers.199": torch.zeros(1)}, index.with_name("model-00002-of-00002.safetensors"))

    with pytest.raises(CheckpointError, match=r"100 tensors that the index promises are in no part: layers\.100"):
        read_source(find_source(index))


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../elsewhere.bin"}}'])
def test_a_damaged_index_or_one_that_leaves_its_folder_is_refused(tmp_path: Path, content: str) -> None:
    index = in_parts(tmp_path / "parts")
    index.write_text(content)

    with pytest.raises(CheckpointError, match="not an index of weights"):
        find_source(index)


def test_a_folder_without_weights_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a folder without model\.safetensors, .* or pytorch_model\.bin\.index"):
        find_source(tmp_path)


# --- the hub ---


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def fill(cache: Path, name: str) -> Path:
    """Puts a repository into the cache, as a download leaves it."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return repository(folder / "snapshots" / COMMIT)


def test_a_repository_in_the_cache_needs_no_network(cache: Path, tmp_path: Path) -> None:
    snapshot = fill(cache, "some/model")

    source = find_source("hf:some/model")
    report = import_weights(source, tmp_path / "toy.safetensors", FLAT)
    _, metadata = read_imported(report.out)

    assert metadata["source"] == f"hf:some/model@{COMMIT}/model.safetensors"
    assert metadata["source_sha256"] == sha256_of(snapshot / "model.safetensors")
    assert (source.vocabulary, metadata["licence"]) == (snapshot / "vocab.txt", "mit")


def test_without_network_and_cache_one_line_says_what_to_do(cache: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_source("hf:some/model")

    (line,) = caught.value.problems
    assert line.startswith(f"hf:some/model: no weights in the cache {cache}, and HF_HUB_OFFLINE is set.")
    assert line.endswith(
        "run `hf download some/model --local-dir FOLDER`, copy that folder here, and name it instead of hf:some/model"
    )


@pytest.mark.parametrize("name", ["hf:", "hf:model", "hf:a/b/c", "hf:some/model@", "hf:../../etc"])
def test_a_misspelt_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"names no repository of the hub"):
        find_source(name)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)

    with pytest.raises(UsageError, match=r"pip install 'vlrun\[hub\]'"):
        find_source("hf:some/model")


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that a download needs, from a folder."""

    folder: Path

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        owner, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        path = self.folder / file
        code = ""
        if (owner, name) != ("some", "model"):
            code = "RepoNotFound"
        elif revision not in ("main", COMMIT):
            code = "RevisionNotFound"
        elif not path.is_file():
            code = "EntryNotFound"
        body = b"" if code else path.read_bytes()
        self.send_response(404 if code else 200)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine with the repository ``some/model``; its folder."""
    handler = type("Handler", (Hub,), {"folder": repository(tmp_path / "published")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield tmp_path / "published"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["hf:some/model", f"hf:some/model@{COMMIT}"])
def test_a_repository_is_downloaded_at_one_commit(hub: Path, name: str) -> None:
    source = find_source(name)

    assert source.label == f"hf:some/model@{COMMIT}/model.safetensors"
    assert source.files[0].read_bytes() == (hub / "model.safetensors").read_bytes()
    assert source.vocabulary is not None
    assert source.vocabulary.read_bytes() == (hub / "vocab.txt").read_bytes()


def test_the_second_choice_of_names_is_found_too(hub: Path) -> None:
    torch.save(toy_tensors(), hub / "pytorch_model.bin")
    (hub / "model.safetensors").unlink()

    content, _ = read_source(find_source("hf:some/model"))

    assert torch.equal(content["layers.150"], toy_tensors()["layers.150"])


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:some/other", "there is no such repository, or it is private"),
        ("hf:some/model@v9", "the repository has no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have_is_said(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_source(name)


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )

    with pytest.raises(CheckpointError, match=r"hf:some/model: .*cannot be reached"):
        find_source("hf:some/model")

    assert waits == sorted(waits), "a second file would begin with a short wait again"
