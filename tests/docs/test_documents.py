"""What the documents tell people to type exists."""

import re
import tomllib
from pathlib import Path

import pytest
import typer

from mangaassist_assets.cli import app
from mangaassist_assets.settings import load

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md", ROOT / "data" / "README.md"]
HELPERS = {"live.py", "load.py", "serve_plain.py"}


def code(document: Path) -> str:
    """Everything set as code, in blocks or within lines."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text("utf-8"), re.DOTALL))


def named(pattern: str) -> set[str]:
    return {word for document in DOCUMENTS for word in re.findall(pattern, code(document))}


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert named(r"\bmake (\w+)") and named(r"\bmake (\w+)") <= targets


def test_every_verb_that_is_named_exists():
    verbs = set(typer.main.get_command(app).commands)
    wanted = named(r"(?:^|[`/\s])mangaassist (\w+)")
    assert wanted and wanted <= verbs


def test_every_benchmark_that_is_named_exists_and_every_one_is_listed():
    listed = set(re.findall(r"benchmarks/(\w+\.py)", code(ROOT / "benchmarks" / "README.md")))
    assert listed == {path.name for path in (ROOT / "benchmarks").glob("*.py")} - HELPERS
    assert named(r"benchmarks/(\w+\.py)") <= listed | HELPERS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(document):
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)", document.read_text("utf-8"))
    assert not [link for link in links if "://" not in link and not (document.parent / link).exists()]


def test_every_block_of_settings_is_accepted(tmp_path):
    blocks = [block for document in DOCUMENTS for block in re.findall(r"```toml\n(.*?)```", document.read_text("utf-8"), re.DOTALL)]
    sections = r"^\[+(sources|messages|intents|retrieval|selection|gates|release|ingestion|drift|labelling|alerts|cloudwatch|service)\b"
    settings = [block for block in blocks if re.search(sections, block, re.MULTILINE)]
    assert settings
    for number, block in enumerate(settings):
        path = tmp_path / f"{number}.toml"
        path.write_text(re.sub(r"^# (?=\w+ = )", "", block, flags=re.MULTILINE), "utf-8")
        assert tomllib.loads(path.read_text("utf-8"))
        load(path)
