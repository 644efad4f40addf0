"""The reference page is made from the code and is up to date; links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from vlrun.cli.parser import built_in_commands
from vlrun.plugins.manager import HOOKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "plugins").glob("*/README.md")])
FROM_THE_CODE = "## Experiment files"  # help texts above it are laid out differently by other Pythons


def test_the_reference_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = (ROOT / "docs" / "reference.md").read_text()
    assert page.partition(FROM_THE_CODE)[2] == generate.reference().partition(FROM_THE_CODE)[2], (
        "run python docs/generate.py"
    )
    assert all(f"### {command.name}\n" in page for command in built_in_commands())
    assert all(f"`{hook}`" in page for hook in HOOKS.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"
