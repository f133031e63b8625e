"""Where groups and labels disagree: one identity in several groups, several identities in one group."""

from __future__ import annotations

from typing import Any

import numpy as np

from coordinator.snapshots.places import pyarrow

EXAMPLES = 100
"""How many of each kind are listed, those with the most templates first."""


def disagreements(table: Any) -> dict[str, Any]:
    """What summary.json says of a table of groups.parquet. Templates without identity agree with everything."""
    named = table.select(["group", "gallery", "identity"]).filter(pyarrow().compute.is_valid(table.column("identity")))
    found = named.group_by(["group", "gallery", "identity"]).aggregate([([], "count_all")])
    merged = _several(found.group_by(["group"]).aggregate(_distinct("identity")), "identity_count_distinct")
    split = _several(found.group_by(["gallery", "identity"]).aggregate(_distinct("group")), "group_count_distinct")
    return {
        "groups_of_several_identities": len(merged),
        "identities_in_several_groups": len(split),
        "several_identities": [_merged_example(found, row) for row in _first(merged, ["group"])],
        "several_groups": [_split_example(found, row) for row in _first(split, ["gallery", "identity"])],
    }


def _distinct(column: str) -> list[tuple[str, str]]:
    return [(column, "count_distinct"), ("count_all", "sum")]


def _several(counted: Any, column: str) -> Any:
    return counted.filter(pyarrow().compute.greater(counted.column(column), 1))


def _first(found: Any, names: list[str]) -> list[dict[str, Any]]:
    keys = [("count_all_sum", "descending"), *((name, "ascending") for name in names)]
    order = pyarrow().compute.sort_indices(found, sort_keys=keys)[:EXAMPLES]
    rows: list[dict[str, Any]] = found.take(order).to_pylist()
    return rows


def _merged_example(found: Any, row: dict[str, Any]) -> dict[str, Any]:
    here = found.filter(pyarrow().compute.equal(found.column("group"), row["group"]))
    counts: dict[str, int] = {}
    for identity, count in zip(here.column("identity").to_pylist(), here.column("count_all").to_pylist(), strict=True):
        counts[identity] = counts.get(identity, 0) + count
    return {"group": row["group"], "identities": dict(sorted(counts.items()))}


def _split_example(found: Any, row: dict[str, Any]) -> dict[str, Any]:
    compute = pyarrow().compute
    is_it = compute.and_(
        compute.equal(found.column("identity"), row["identity"]), compute.equal(found.column("gallery"), row["gallery"])
    )
    groups = np.unique(found.filter(is_it).column("group").to_numpy()).tolist()
    return {"gallery": row["gallery"], "identity": row["identity"], "groups": groups}
