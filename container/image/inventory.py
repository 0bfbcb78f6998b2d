"""Writes what is in the image: a CycloneDX bill of materials, and the licence of each part. Runs in a build stage only."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from debian.copyright import Copyright, NotMachineReadableError
from debian.deb822 import Deb822
from packageurl import PackageURL

# The same parts give the same serial number, so that the same inputs give the same image.
_NAMESPACE = uuid.UUID("a6b2c7de-1d0b-4c35-9f0e-4a8f9b6a51ce")


@dataclass(frozen=True, order=True)
class Part:
    """One package of the image. ``licence`` is an SPDX expression where the package tells one, else what it says in words."""

    kind: str  # "pypi" | "deb"
    name: str
    version: str
    licence: str
    where: str  # the texts of its licence in the image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="site-packages of the image")
    parser.add_argument("--dpkg-status", type=Path, required=True, help="the image's /var/lib/dpkg/status")
    parser.add_argument("--out", type=Path, required=True, help="directory for sbom.cdx.json and LICENSES.txt")
    asked = parser.parse_args()
    parts = sorted({*python_parts(asked.packages), *debian_parts(asked.dpkg_status)})
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "sbom.cdx.json").write_text(bill_of_materials(parts))
    (asked.out / "LICENSES.txt").write_text(licence_list(parts))


def python_parts(packages: Path) -> Iterator[Part]:
    for found in distributions(path=[str(packages)]):
        name = found.metadata["Name"]
        yield Part("pypi", name.lower(), found.version, _python_licence(found), f"{name}-{found.version}.dist-info in site-packages")


def _python_licence(found: Distribution) -> str:
    """The licence as packages state it today (an SPDX expression), else as they used to: classifiers, then free text."""
    if expression := _field(found, "License-Expression"):
        return expression[0]
    classifiers = [text for text in _field(found, "Classifier") if text.startswith("License ::")]
    words = [text.rsplit(" :: ", 1)[-1] for text in classifiers if text != "License :: OSI Approved"]
    stated = "".join(_field(found, "License")).strip().partition("\n")[0]
    return " AND ".join(words) or stated or "not stated"


def _field(found: Distribution, name: str) -> list[str]:
    return [str(text) for text in found.metadata.get_all(name) or []]


def debian_parts(status: Path, doc: Path = Path("/usr/share/doc")) -> Iterator[Part]:
    with open(status, encoding="utf-8") as file:
        for package in Deb822.iter_paragraphs(file):
            if package.get("Status", "").endswith(" installed"):
                text = doc / package["Package"] / "copyright"
                yield Part("deb", package["Package"], package["Version"], _debian_licence(text), str(text))


def _debian_licence(text: Path) -> str:
    try:
        with open(text, encoding="utf-8") as file:
            paragraphs = Copyright(file, strict=False).all_files_paragraphs()
            names = {paragraph.license.synopsis for paragraph in paragraphs if paragraph.license}
    except (NotMachineReadableError, OSError, ValueError):
        return "see its copyright file"
    return " AND ".join(sorted(name for name in names if name)) or "see its copyright file"


def bill_of_materials(parts: list[Part]) -> str:
    """CycloneDX 1.6 as JSON (https://cyclonedx.org/docs/1.6/json/)."""
    licences = LicenseFactory()
    components = [
        Component(
            type=ComponentType.LIBRARY,
            name=part.name,
            version=part.version,
            purl=PackageURL(part.kind, "debian" if part.kind == "deb" else None, part.name, part.version),
            bom_ref=f"{part.kind}:{part.name}",
            licenses=[licences.make_from_string(part.licence)],
        )
        for part in parts
    ]
    bom = Bom(components=components, serial_number=uuid.uuid5(_NAMESPACE, repr(parts)))
    bom.metadata.timestamp = None
    text: str = JsonV1Dot6(bom).output_as_string(indent=1)
    return text + "\n"


def licence_list(parts: list[Part]) -> str:
    head = "What this image holds, under which licence, and where in the image the texts are.\n\n"
    return head + "".join(f"{part.kind:<5}{part.name} {part.version}: {part.licence} ({part.where})\n" for part in parts)


if __name__ == "__main__":
    main()
