"""What a gallery keeps resident, measured from the process."""

from pathlib import Path

from benchmarks import memory
from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from cluster import Cluster

TEMPLATES = 100_000
LIMIT = 80.0
"""Bytes per template: 64 of codes at 512 bits, and the rest for the model, bitmaps and databases."""
SEARCHED = 90.0
"""Of heap after a thousand searches: a megabyte more that the allocator keeps for the next one."""


def test_a_reopened_gallery_is_within_its_memory(tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home") as grid:
        gallery = grid.gallery("acme/large", create=True, shards=4, dim=EDGEFACE.dim, code_bits=512)
        for rows, _ in SyntheticGallery(EDGEFACE, TEMPLATES, 1, seed=5).blocks(25_000):
            gallery.enroll(rows)
        grid.wait_until_idle()
        gallery.flush()
        assert gallery.stats().model_id is not None
    report = memory.measure(tmp_path / "home", "acme/large")
    print(report)
    assert report.reopened <= LIMIT
    assert report.used_heap <= SEARCHED
