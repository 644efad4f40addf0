"""The options of the backbone, checked without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from vlrun import DemoFiles
from vlrun import TransformerSizes as Sizes
from vlrun_rosita.config import RositaConfig


def test_base_is_the_network_of_the_paper() -> None:
    config = RositaConfig(name="rosita")

    assert config.sizes == Sizes(768, 12, 12, 3072, 512)
    assert (config.region_feature_size, config.num_regions, config.dropout) == (2048, 36, 0.1)


def test_single_numbers_replace_those_of_the_size() -> None:
    config = RositaConfig(name="rosita", size="tiny", num_layers=5)

    assert config.sizes == replace(RositaConfig.known_sizes["tiny"], num_layers=5)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ValidationError, match="num_heads 5 does not divide hidden_size 768"):
        RositaConfig(name="rosita", num_heads=5)


def test_paths_lie_under_the_data_root() -> None:
    options = {"name": "rosita", "weights": "weights/rosita-base.safetensors"}

    config = RositaConfig.model_validate(options, context={"data_root": Path("/data")})

    assert config.vocabulary == Path("/data/vocab/bert-base-uncased.txt")
    assert config.weights == Path("/data/weights/rosita-base.safetensors")


def test_missing_files_come_with_a_remedy() -> None:
    config = RositaConfig(name="rosita", weights=Path("/data/weights/rosita-base.safetensors"))

    vocabulary, weights = config.required_files()

    assert vocabulary.path == config.vocabulary
    assert f"curl -L -o {config.vocabulary} https://" in vocabulary.remedy
    assert "runner weights import --from rosita rosita-base.pkl /data/weights/rosita-base.safetensors" in weights.remedy


def test_random_weights_need_no_file_of_weights() -> None:
    config = RositaConfig(name="rosita")

    assert [file.path for file in config.required_files()] == [config.vocabulary]


def test_demo_turns_any_options_into_a_tiny_network(tmp_path: Path) -> None:
    given = {"name": "rosita", "weights": "w.safetensors", "hidden_size": 1024, "num_layers": 24, "num_heads": 16}
    files = DemoFiles(tmp_path / "vocab.txt", region_feature_size=64, num_regions=10)

    config = RositaConfig.model_validate({**given, **RositaConfig.demo_overrides(files)})

    assert config.sizes == RositaConfig.known_sizes["tiny"]
    assert config.weights is None
    assert (config.vocabulary, config.region_feature_size, config.num_regions) == (tmp_path / "vocab.txt", 64, 10)


def test_the_plugin_module_imports_no_torch() -> None:
    program = "import sys, vlrun_rosita.plugin as p; p.vlrun_backbones(); print('torch' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "False"
