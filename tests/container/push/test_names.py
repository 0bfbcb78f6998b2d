from __future__ import annotations

import pytest

from headway.container.push.names import checked_repository, checked_tags, tag_of
from headway.server.errors import ConfigError

VERSION, REVISION = "org.opencontainers.image.version", "org.opencontainers.image.revision"


@pytest.mark.parametrize(
    ("labels", "is_dirty", "tag"),
    [
        ({VERSION: "0.1.0", REVISION: "0123456789abcdef"}, False, "0.1.0-0123456789ab"),
        ({VERSION: "0.1.0", REVISION: "0123456789abcdef", "headway.variant": "cuda"}, False, "0.1.0-0123456789ab-cuda"),
        ({VERSION: "0.1.0", REVISION: "0123456789abcdef", "headway.variant": "cpu"}, True, "0.1.0-0123456789ab-dirty"),
        ({VERSION: "0.1.0", REVISION: ""}, False, "0.1.0"),
        ({VERSION: "0.1.0", REVISION: "unknown"}, False, "0.1.0"),
        ({VERSION: "0.1.0+local; rm"}, False, "0.1.0-local--rm"),
    ],
)
def test_a_tag_is_version_and_commit(labels: dict[str, str], is_dirty: bool, tag: str) -> None:
    assert tag_of(labels, is_dirty) == tag
    assert checked_tags([tag]) == [tag]


def test_an_image_of_no_known_version_needs_a_tag() -> None:
    for labels in ({}, {VERSION: "unknown"}):
        with pytest.raises(ConfigError, match="--tag is needed"):
            tag_of(labels, False)


@pytest.mark.parametrize("name", ["headway", "team/headway", "a.b_c__d--e/f", "ab"])
def test_repositories(name: str) -> None:
    assert checked_repository(name) == name


@pytest.mark.parametrize("name", ["", "a", "Team/x", "-ab", "a//b", "ab/", "host:5000/ab", "ab;rm", "ab\n", "é" * 3, "a" * 257])
def test_no_repositories(name: str) -> None:
    with pytest.raises(ConfigError, match="--repository"):
        checked_repository(name)


def test_tags_are_checked_and_each_taken_once() -> None:
    assert checked_tags(["b", "a", "b"]) == ["b", "a"]
    for tag in ("", "-a", ".a", "a b", "a/b", "a" * 129, "a\n"):
        with pytest.raises(ConfigError, match="--tag"):
            checked_tags([tag])
