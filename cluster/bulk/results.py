"""The files of a bulk job's result: tables of what was enrolled and what was refused, in the order of the input.

Made of the checkpoints alone, row group by row group, so that they are the same bytes whatever was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cluster.bulk.items import Rows
from cluster.bulk.listing import Listing
from cluster.bulk.writer import outcomes_of
from cluster.jobs.context import JobContext
from coordinator.snapshots.places import pyarrow
from shard.files import new_file

ENROLLED, REFUSED, MISSING = "enrolled.parquet", "refused.parquet", "missing.parquet"
ROW_GROUP = 65_536


def write_tables(job: JobContext, listing: Listing) -> None:
    """enrolled.parquet and refused.parquet, of the outcomes of every unit."""
    text, flag = pyarrow().string(), pyarrow().bool_()
    enrolled = {"source": text, "item": text, "template_id": text, "identity": text, "was_there": flag}
    write_parquet(job.result / ENROLLED, enrolled, _enrolled(job, listing))
    refused = {"source": text, "item": text, "template_id": text, "identity": text, "reason": text, "message": text}
    write_parquet(job.result / REFUSED, refused, _refused(job, listing))


def write_parquet(path: Path, columns: dict[str, Any], rows: Iterable[tuple[Any, ...]]) -> None:
    """A Parquet file of these columns; the same bytes for the same rows."""
    arrow = pyarrow()
    schema = arrow.schema(list(columns.items()))
    with new_file(path) as file, arrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        group = Rows(tuple(columns), tuple(columns.values()))
        for row in rows:
            group.add(row)
            if group.length == ROW_GROUP:
                writer.write_table(group.table().combine_chunks(), row_group_size=ROW_GROUP)
                group = Rows(tuple(columns), tuple(columns.values()))
        if group.length:
            writer.write_table(group.table().combine_chunks(), row_group_size=ROW_GROUP)


def _enrolled(job: JobContext, listing: Listing) -> Iterator[tuple[Any, ...]]:
    for number in range(listing.units):
        found, source = outcomes_of(job, number), listing.source_of(number)
        for i, reason in enumerate(found.reasons):
            if reason is None:
                yield source, found.items[i], found.template_ids[i], found.identities[i], not found.is_new[i]


def _refused(job: JobContext, listing: Listing) -> Iterator[tuple[Any, ...]]:
    for number in range(listing.units):
        found, source = outcomes_of(job, number), listing.source_of(number)
        for i, reason in enumerate(found.reasons):
            if reason is not None:
                labels = found.template_ids[i], found.identities[i]
                yield source, found.items[i], *labels, reason, found.messages[i]
