"""What the documents tell people to type exists: commands, options, targets, files they link to."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from edgevit.cli.group import cli
from edgevit.targets.profiles import shipped

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "README.zh.md", "CONTRIBUTING.md")
DOCUMENTS = [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").glob("*.md"))]


def commands_in(document: Path) -> list[list[str]]:
    """Words of every `edgevit ...` in code, continuation lines joined."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    code = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in code for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {4}(edgevit .*)", text, re.MULTILINE)
    found = []
    for line in lines:
        words = line.split("#")[0].strip().removeprefix(".venv/bin/").removeprefix("$(BIN)/")
        if words.startswith("edgevit "):
            found.append(shlex.split(words)[1:])
    return found


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and what is left of them."""
    group: click.Command = cli
    context = click.Context(cli)
    rest = list(words)
    while isinstance(group, click.Group) and rest and not rest[0].startswith("-"):
        found = group.get_command(context, rest[0])
        assert found is not None, f"there is no command edgevit {' '.join(words)}"
        group, rest = found, rest[1:]
    return group, rest


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    for words in commands_in(document):
        command, rest = resolve(words)
        options = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        if command is cli:
            options.add("--version")
        unknown = [word for word in rest if word.startswith("-") and word.split("=")[0] not in options]
        assert unknown == [], f"edgevit {' '.join(words)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_exist(document: Path) -> None:
    names = {*shipped("boards"), "NAME", "ID", "torch"}  # the float model of a run
    for words in commands_in(document):
        wanted = [words[index + 1] for index, word in enumerate(words[:-1]) if word == "--target"]
        assert [name for name in wanted if name not in names and not name.endswith(".toml")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_this_finds_what_it_looks_for() -> None:
    assert ["convert", "--target", "rk3588"] in commands_in(ROOT / "docs" / "first-board.md")
    with pytest.raises(AssertionError, match="no command edgevit nonsense"):
        resolve(["nonsense"])


def outline(path: Path) -> tuple[list[int], list[str], list[int], list[str]]:
    """Levels of headings, lines of commands, columns of each table's row, and links of a page."""
    headings, commands, rows, fenced = list[int](), list[str](), list[int](), False
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            commands.append(line.strip())
        elif line.startswith("#"):
            headings.append(len(line.split()[0]))
        elif line.startswith("|"):
            rows.append(line.count("|"))
    links = sorted(set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh.md"})
    return headings, commands, rows, links


def test_the_chinese_readme_has_the_english_ones_headings_commands_tables_and_links() -> None:
    english, chinese = (outline(ROOT / name) for name in ("README.md", "README.zh.md"))
    for ours, theirs in zip(chinese, english, strict=True):
        assert ours == theirs


def test_the_chinese_readme_has_the_english_ones_figures() -> None:
    """Numbers with a decimal point or a unit move with measurements: both pages must say the same ones."""
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")]
    english, chinese = (sorted(re.findall(r"\d+\.\d+", page)) for page in pages)
    assert chinese == english
