"""The options of both backbones, checked without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from vlrun import DemoFiles
from vlrun_lxmert_s.config import LxmertConfig, LxmertSConfig, Sizes, TwoStreamConfig

CONFIGS = {"lxmert-s": LxmertSConfig, "lxmert": LxmertConfig}

both = pytest.mark.parametrize("name", CONFIGS)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (LxmertSConfig(name="lxmert-s"), Sizes(768, 12, 3072, 0, 5, 0, 512)),
        (LxmertConfig(name="lxmert"), Sizes(768, 12, 3072, 9, 5, 5, 512)),
    ],
    ids=["lxmert-s", "lxmert"],
)
def test_base_is_the_network_of_the_paper(config: TwoStreamConfig, sizes: Sizes) -> None:
    assert config.sizes == sizes
    assert (config.region_feature_size, config.num_regions, config.dropout) == (2048, 36, 0.1)


def test_single_numbers_replace_those_of_the_size() -> None:
    config = LxmertConfig(name="lxmert", num_language_layers=0, num_cross_layers=3)

    assert config.sizes == replace(LxmertConfig.known_sizes["base"], num_language_layers=0, num_cross_layers=3)


@both
def test_heads_must_divide_the_hidden_size(name: str) -> None:
    with pytest.raises(ValidationError, match="num_heads 5 does not divide hidden_size 768"):
        CONFIGS[name](name=name, num_heads=5)


@both
def test_a_network_without_cross_modal_layers_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="num_cross_layers"):
        CONFIGS[name](name=name, num_cross_layers=0)


@both
def test_paths_lie_under_the_data_root(name: str) -> None:
    options = {"name": name, "weights": "weights/w.safetensors"}

    config = CONFIGS[name].model_validate(options, context={"data_root": Path("/data")})

    assert config.vocabulary == Path("/data/vocab/bert-base-uncased.txt")
    assert config.weights == Path("/data/weights/w.safetensors")


@pytest.mark.parametrize(("name", "file"), [("lxmert-s", "mode_LXRT.bin"), ("lxmert", "model_LXRT.pth")])
def test_missing_files_come_with_a_remedy(name: str, file: str) -> None:
    config = CONFIGS[name](name=name, weights=Path("/data/weights/w.safetensors"))

    vocabulary, weights = config.required_files()

    assert f"curl -L -o {config.vocabulary} https://" in vocabulary.remedy
    assert f"runner weights import --from {name} {file} /data/weights/w.safetensors" in weights.remedy
    assert f"runner weights import --from bert-{name} " in weights.remedy
    assert ("runner weights import --from hf-lxmert hf:unc-nlp/" in weights.remedy) == (name == "lxmert")


@both
def test_random_weights_need_no_file_of_weights(name: str) -> None:
    config = CONFIGS[name](name=name)

    assert [file.path for file in config.required_files()] == [config.vocabulary]


@both
def test_demo_turns_any_options_into_a_tiny_network(tmp_path: Path, name: str) -> None:
    given = {"name": name, "weights": "w.safetensors", "hidden_size": 1024, "num_cross_layers": 24, "num_heads": 16}
    files = DemoFiles(tmp_path / "vocab.txt", region_feature_size=64, num_regions=10)

    config = CONFIGS[name].model_validate({**given, **CONFIGS[name].demo_overrides(files)})

    assert config.sizes == CONFIGS[name].known_sizes["tiny"]
    assert config.weights is None
    assert (config.vocabulary, config.region_feature_size, config.num_regions) == (tmp_path / "vocab.txt", 64, 10)


def test_the_plugin_module_imports_no_torch() -> None:
    program = (
        "import sys, vlrun_lxmert_s.plugin as p; p.vlrun_backbones(); p.vlrun_weight_formats(); "
        "print({'torch', 'numpy', 'tokenizers'} & set(sys.modules))"
    )

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "set()"
