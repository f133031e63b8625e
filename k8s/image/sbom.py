"""The image's SBOM: CycloneDX JSON of the Python packages, completed by Debian's packages and the extension's crates.

`sbom.py python.json dpkg-status crates.txt out.json`: python.json from cyclonedx-py, dpkg-status the image's file
/var/lib/dpkg/status, crates.txt from `cargo tree --prefix none --format '{p}'`. The result is validated against the
schema of its version.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

Component = dict[str, Any]


def debian(status: str) -> Iterator[Component]:
    """A component for each installed package of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields.get("Status") == "install ok installed":
            name, version, arch = fields["Package"], fields["Version"], fields["Architecture"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={arch}&distro=debian-12"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def crates(tree: str) -> Iterator[Component]:
    """A component for each crate of the registry; the extension itself, of a path, is part of facegrid."""
    for name, version in sorted(set(re.findall(r"^(\S+) v(\S+)(?: \(proc-macro\))?(?: \(\*\))?$", tree, re.MULTILINE))):
        purl = f"pkg:cargo/{name}@{version}"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main() -> None:
    """Write the SBOM; exits with a message where it is not valid or a part is empty."""
    python, status, tree, out = (Path(argument) for argument in sys.argv[1:])
    bom = json.loads(python.read_text(encoding="utf-8"))
    parts = {
        "Python packages": bom["components"],
        "Debian packages": list(debian(status.read_text(encoding="utf-8"))),
        "crates": list(crates(tree.read_text(encoding="utf-8"))),
    }
    for name, part in parts.items():
        if not part:
            sys.exit(f"expected {name} in the SBOM, found none")
        print(f"{len(part)} {name}")
    bom["components"] = [component for part in parts.values() for component in part]
    text = json.dumps(bom, indent=1)
    invalid = JsonStrictValidator(SchemaVersion.from_version(bom["specVersion"])).validate_str(text)
    if invalid:
        sys.exit(f"the SBOM is not valid CycloneDX {bom['specVersion']}: {invalid}")
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
