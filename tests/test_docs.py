"""The pages lead to each other: every relative link, with its heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md", ROOT / "sagemaker_examples/README.md"]


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_curl_say_what_they_send(page: Path) -> None:
    """As forms, which curl makes of what it sends, bodies are refused."""
    for command in re.findall(r"^(?:\$ )?curl .*(?:\\\n.*)*", page.read_text(), re.MULTILINE):
        assert not re.search(r"\s(-d|--data)", command) or "Content-Type: application/json" in command, command


def test_every_page_is_reached_from_the_front_page() -> None:
    front = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in front, page.name


def test_the_rooms_of_the_architecture_page_are_those_there_are() -> None:
    rooms = dict(re.findall(r"^\| `([\w/]+)/` \| (.+) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE))
    assert rooms.keys() > {"entrypoint", "server", "server/api", "server/config"}
    del rooms["container"]  # folders
    for room, text in rooms.items():
        files = {file.stem for file in (ROOT / room).glob("*.py")} - {"__init__"}
        named = re.findall(r"`(\w+)`", text)
        assert len(named) == len(set(named)), room
        assert set(named) <= files, room
        assert set(named) == files or room == "server/config", room  # which has a file a topic
