"""`DedupJob`: the kind `dedup` of jobs, from the snapshot to the files of the result.

    reading     snapshots of the galleries, unless some were given
    verifying   every object against its digest, in worker processes
    joining     pairs of parts, in worker processes
    grouping    of what was found, here
    writing     the result's files

What is done is a checkpoint, and everything after depends on the checkpoints alone: so the files are the same however
often the job was interrupted. They do not depend on rows either, but for the columns that name shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from cluster.dedup.analysis import analyse
from cluster.dedup.analysis_report import analysis_html
from cluster.dedup.apply import settled
from cluster.dedup.corpus import Corpus
from cluster.dedup.faces import Faces, faces_of
from cluster.dedup.grouping import Groups, Role, group, reasons_of
from cluster.dedup.inputs import Threshold, check_inputs, take_inputs, threshold_of
from cluster.dedup.pairs import FoundPairs, gathered
from cluster.dedup.parameters import DedupParameters
from cluster.dedup.photos import pair_kinds
from cluster.dedup.result_columns import REPORT
from cluster.dedup.results import RESULT_FORMAT, GroupRows, PairChunk, ResultInput, write_results
from cluster.dedup.rules import Rules
from cluster.dedup.strategies import found_pairs, verify
from cluster.thumbnails import KEY
from coordinator.snapshots.manifest import manifest_digest
from coordinator.snapshots.places import public_url, pyarrow
from shard.errors import CorruptData
from shard.files import write_file
from shard.pairs import Pairs
from shard.types import RowArray

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.jobs.context import JobContext

_SILENT = {"workers", "max_pairs"}
"""Parameters that the result does not depend on: they are not in it."""
_THUMBNAIL = f'"{KEY}":"[^"]*"'


class DedupJob:
    """Every group of faces that are the same person, in one gallery or between two."""

    name = "dedup"
    parameters = DedupParameters

    def check(self, cluster: Cluster, gallery: str, parameters: BaseModel, key_id: str | None) -> None:
        """See `check_inputs`."""
        assert isinstance(parameters, DedupParameters)
        check_inputs(cluster, gallery, parameters, key_id)

    def deleting(self, cluster: Cluster, directory: Path) -> AbstractContextManager[None]:
        """See `cluster.dedup.apply.settled`."""
        return settled(cluster, directory)

    def run(self, job: JobContext) -> dict[str, Any]:
        """See the module. Raises what `check` does, CorruptData, and InvalidParameter for too many pairs."""
        values = job.parameters
        assert isinstance(values, DedupParameters)
        self.check(job.cluster, job.record.gallery, values, None)
        corpus = take_inputs(job, values)
        threshold = threshold_of(job, values, corpus.manifests[0].templates)
        verify(job, corpus)
        found, recall = found_pairs(job, corpus, values, threshold.least)
        job.log("pairs", pairs=len(found))
        work = _Work(job, values, corpus, threshold, found, recall)
        return work.analysis() if values.analyse else work.groups()


@dataclass(frozen=True, slots=True)
class _Work:
    """What is made of the pairs, in the process that runs the job."""

    job: JobContext
    values: DedupParameters
    corpus: Corpus
    threshold: Threshold
    found: FoundPairs
    recall: dict[str, Any]

    def analysis(self) -> dict[str, Any]:
        """The summary of an analysis: what each threshold from the floor up would give."""
        self.job.progress(0, 1, "steps", "analysing")
        analysis = analyse(self.found.all(), floor=self.threshold.least)
        summary = {
            "format": RESULT_FORMAT,
            "kind": "dedup",
            **self._about(),
            "floor": self.threshold.least,
            "inputs": self.corpus.digests,
            "pairs": len(self.found),
            "recall": self.recall,
            "analysis": analysis.summary(),
        }
        write_file(self.job.result / REPORT, analysis_html(summary).encode())
        self.job.progress(1, 1, "steps", "analysing")
        return summary

    def groups(self) -> dict[str, Any]:
        """The result's files and summary."""
        self.job.progress(0, 2, "steps", "grouping")
        rows = self.found.rows()
        faces = faces_of(self._labels(rows))
        pairs = gathered(self.found.ordered(rows, faces.order), len(self.found))
        rules = self._rules()
        groups = group(pairs, faces, self.corpus.floats, rules)
        self.job.progress(1, 2, "steps", "writing")
        summary = write_results(
            self.job.result,
            inputs=self._inputs(),
            parameters=self._about()["parameters"],
            threshold=rules.threshold,
            recall=self.recall,
            rows=rows,
            labels=self.corpus.labels,
            pairs=_chunks(pairs, faces, rules.same_photo_bits),
            groups=_group_rows(groups, faces),
        )
        self.job.progress(2, 2, "steps", "writing")
        return {**summary, **self._about()}

    def _about(self) -> dict[str, Any]:
        """Of every summary: nothing in it depends on when or where the job ran."""
        parameters = self.values.model_dump(mode="json", exclude=_SILENT)
        return {
            "gallery": self.job.record.gallery,
            "parameters": parameters,
            "threshold": self.threshold.chosen,
            "calibration": self.threshold.calibration,
        }

    def _inputs(self) -> tuple[ResultInput, ...]:
        store = None if self.values.store is None else public_url(self.values.store)
        return tuple(
            ResultInput(
                gallery=manifest.gallery,
                gallery_id=manifest.gallery_id,
                snapshot_id=manifest.snapshot_id,
                store=store,
                sha256=manifest_digest(manifest),
                templates=manifest.templates,
                shards=len(manifest.shards),
            )
            for manifest in self.corpus.manifests
        )

    def _rules(self) -> Rules:
        values = self.values
        return Rules(
            threshold=self.threshold.least,
            cohesion=values.cohesion,
            min_group=values.min_group,
            max_group=values.max_group,
            merge_same_photo=values.merge_same_photo,
            same_photo_bits=values.same_photo_bits,
            keep=values.keep,
        )

    def _labels(self, rows: RowArray) -> Any:
        """Labels of rows, without thumbnails, which would be most of it. CorruptData for an id that is there twice."""
        arrow = pyarrow()
        columns = ["template_id", "identity", "metadata"]
        batches = [_without_thumbnails(batch) for batch in self.corpus.label_batches(rows, columns)]
        table = arrow.concat_tables(batches) if batches else self.corpus.labels(rows, columns)
        for number, manifest in enumerate(self.corpus.manifests):
            ids = table.filter(arrow.compute.equal(table.column("input"), number)).column("template_id")
            if arrow.compute.count_distinct(ids).as_py() != len(ids):
                raise CorruptData(f"snapshot {manifest.snapshot_id} has templates of the same id")
        return table


def _without_thumbnails(table: Any) -> Any:
    arrow = pyarrow()
    at = table.schema.get_field_index("metadata")
    text = table.column(at).cast(arrow.string())
    bare = arrow.compute.replace_substring_regex(text, _THUMBNAIL, f'"{KEY}":""').cast(arrow.binary())
    return table.set_column(at, "metadata", bare)


def _chunks(pairs: Pairs, faces: Faces, same_photo_bits: int, step: int = 1 << 20) -> Iterator[PairChunk]:
    """The pairs in their order, with their kinds."""
    for begin in range(0, len(pairs.left), step):
        part = slice(begin, begin + step)
        left, right, scores = pairs.left[part], pairs.right[part], pairs.scores[part]
        at = [np.searchsorted(faces.rows, rows).astype(np.int64) for rows in (left, right)]
        yield PairChunk(left, right, scores, pair_kinds(at[0], at[1], scores, faces, same_photo_bits=same_photo_bits))


def _group_rows(groups: Groups, faces: Faces) -> GroupRows:
    return GroupRows(
        group=groups.group,
        row=groups.row,
        is_keep=groups.role == Role.KEEP,
        is_medoid=groups.is_medoid,
        quality=faces.quality[np.searchsorted(faces.rows, groups.row)],
        medoid_score=groups.medoid_score,
        reasons={
            number: ", ".join(reasons_of(int(groups.review[number])))
            for number in np.flatnonzero(groups.needs_review).tolist()
        },
    )
