"""What the chart makes of the examples, kept in golden/: a change of the chart shows what it changes in a release.

`make golden-k8s` writes them anew; read the diff before committing it.
"""

import difflib
from pathlib import Path

from tests.k8s import charts

GOLDEN = Path(__file__).with_name("golden")
RELEASE = "faces"
# Alerts and dashboard: test_chart_valid.py holds them against cluster/service/dashboards.
FILES = ("facegrid/templates/prometheusrule.yaml", "facegrid/templates/dashboard.yaml")
RENEW = "if it is meant, run `make golden-k8s` and commit tests/k8s/golden"


def rendered(example: str) -> str:
    """The example's manifests as helm prints them, without those that are the service's own files."""
    documents = charts.text("{}", RELEASE, (charts.EXAMPLES[example],)).split("---\n# Source: ")
    return "---\n# Source: ".join(one for one in documents if not one.startswith(FILES))


def path_of(example: str) -> Path:
    return GOLDEN / f"{example}.yaml"


def difference(example: str) -> str:
    """A unified diff from the golden file to what is made now, with the way to renew it; empty if they are the same."""
    old, new = path_of(example).read_text() if path_of(example).is_file() else "", rendered(example)
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"golden/{example}.yaml", "rendered", lineterm="", n=4
    )
    said = "\n".join(lines)
    return f"{said}\n{RENEW}" if said else ""


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for known in GOLDEN.glob("*.yaml"):
        if known.stem not in charts.EXAMPLES:
            known.unlink()
    for example in charts.EXAMPLES:
        is_new = bool(difference(example))
        path_of(example).write_text(rendered(example))
        print(f"{path_of(example)}: {'written' if is_new else 'as it was'}")


if __name__ == "__main__":
    main()
