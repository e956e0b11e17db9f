"""What the documents say is there: links, modules, commands and their options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.cli.group import gateway

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "hardware").rglob("*.md")]
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    found = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.M)
    return {
        re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in found
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_the_architecture_names_every_room_and_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [
        each
        for each in (ROOT / "gateway").iterdir()
        if (each.is_dir() and (each / "__init__.py").exists())
        or (each.suffix == ".py" and not each.name.startswith("__"))
    ]
    assert len(rooms) > 30
    missing = sorted(each.stem for each in rooms if f"`{each.stem}`" not in text)
    assert missing == []


def commands(group: click.Command, above: str = "gateway") -> Iterator[tuple[str, click.Command]]:
    """Every command that is shown, with its full name."""
    if not isinstance(group, click.Group):
        yield above, group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield from commands(command, f"{above} {name}")


COMMANDS = dict(commands(gateway))


def mentioned() -> Iterator[tuple[str, str]]:
    """Command lines as pages give them, in blocks of either kind and inline; each with its page."""
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in _FENCE.finditer(text) for line in block[0].splitlines()]
        lines += re.findall(r"^    (.*)$", text, re.M)
        lines += [each.replace("\n", " ") for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        for line in lines:
            if found := re.match(r"(?:\$ |sudo )?(?:-u \w+ )?(gateway [a-z].*)", line.strip()):
                yield str(page.relative_to(ROOT)), re.split(r"  | \| ", found[1])[0]


def _options(command: click.Command) -> set[str]:
    found = {each for p in command.params for each in (*p.opts, *p.secondary_opts)}
    return {"--help", *(each for each in found if each.startswith("--"))}


def test_commands_and_options_in_the_documents_exist() -> None:
    groups = {name.rpartition(" ")[0]: name for name in COMMANDS}
    wrong, n = [], 0
    for page, line in mentioned():
        words = line.split()
        known = [each for each in COMMANDS if words[: len(each.split())] == each.split()]
        if not known:
            # A group by itself says something too: `gateway alarms`, `gateway lab --help`.
            if " ".join(words[:2]) not in groups and words[1] != "calls:":
                wrong.append(f"{page}: {line}: there is no such command")
            continue
        n += 1
        there = _options(COMMANDS[max(known, key=len)])
        asked = re.findall(r"(?<!\S)(--[a-z][a-z-]*)", line)
        wrong += [f"{page}: {line}: no option {each}" for each in asked if each not in there]
    assert wrong == []
    assert n > 100


def test_every_command_and_option_is_in_the_documents() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    said = [line for _, line in mentioned()]
    for name, command in COMMANDS.items():
        # What hands can do in the lab is listed by `gateway lab --help`.
        if name.startswith("gateway lab ") and name != "gateway lab run":
            continue
        assert any(f"{line} ".startswith(f"{name} ") for line in said), name
        for option in _options(command):
            assert option.replace("--no-", "--", 1) in text or option in text, f"{name} {option}"
