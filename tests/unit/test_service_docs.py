"""docs/service.md lists every operation of the service, and no other."""

import re
from pathlib import Path

from cluster.service.app import MODULES

DOC = Path(__file__).resolve().parents[2] / "docs" / "service.md"


def test_every_operation_is_documented_with_its_request() -> None:
    routes = [route for module in MODULES for route in module.router.routes]
    told = dict(re.findall(r"^\| `([a-z.]+)` \| `([A-Z]+ /[^`]*)` \|", DOC.read_text(), re.MULTILINE))
    assert told == {route.operation_id: f"{min(route.methods)} {route.path}" for route in routes}
