"""Galleries of real embeddings through the API: recall, identification, and the same list however sharded."""

from pathlib import Path

import numpy as np
import pytest

from cluster import Cluster
from shard.types import FloatArray

pytestmark = pytest.mark.data

EMBEDDERS = ["edgeface_xs_512", "mobilefacenet_512"]
RECALL = 0.999
RANK_1_TOLERANCE = 0.001


@pytest.fixture(scope="module", params=EMBEDDERS)
def embeddings(request: pytest.FixtureRequest, data_dir: Path) -> FloatArray:
    rows = np.load(data_dir / "lfw" / f"{request.param}.npy").astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def people(data_dir: Path) -> np.ndarray:  # type: ignore[type-arg]
    return np.array((data_dir / "lfw" / "identities.txt").read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with Cluster.open(tmp_path_factory.mktemp("lfw") / "home") as opened:
        yield opened


def test_recall_and_identification_equal_exact_search(grid, embeddings, people) -> None:  # type: ignore[no-untyped-def]
    """One photo of everyone and half of the others enrolled; probes: the rest, and photos of people not enrolled."""
    rng = np.random.default_rng(7)
    order = rng.permutation(len(people))
    strangers = np.isin(people, rng.permutation(np.unique(people))[:600])
    _, first = np.unique(people[order], return_index=True)
    enrolled = np.zeros(len(people), dtype=bool)
    enrolled[order[first]] = True
    enrolled |= rng.random(len(people)) < 0.5
    enrolled &= ~strangers
    gallery = grid.gallery("lfw/recall", create=True, shards=3, dim=512)
    gallery.enroll(
        embeddings[enrolled],
        identities=people[enrolled].tolist(),
        template_ids=[f"{i}" for i in np.flatnonzero(enrolled)],
    )
    grid.wait_until_idle()
    assert gallery.stats().model_id is not None, "training did not happen by itself"
    for name, chosen in {
        "mated": ~enrolled & ~strangers,
        "enrolled themselves": enrolled,
        "strangers": strangers,
    }.items():
        probes = embeddings[chosen]
        fast, exact = gallery.search(probes, k=2), gallery.search(probes, k=2, exact=True)
        recall = np.mean([a[0] == b[0] for a, b in zip(fast.template_ids, exact.template_ids, strict=True)])
        line = f"{name}: {len(probes)} probes of {int(enrolled.sum())}, recall@1 {recall:.5f}"
        if name == "mated":
            ranks = [
                np.mean([row[0] == who for row, who in zip(found.identities, people[chosen], strict=True)])
                for found in (fast, exact)
            ]
            line += f", rank-1 {ranks[0]:.4f} (exact {ranks[1]:.4f})"
            assert abs(ranks[0] - ranks[1]) <= RANK_1_TOLERANCE
        print(line)
        assert recall >= RECALL
    grid.drop("lfw/recall")


def test_the_same_list_from_1_3_and_7_shards(grid, embeddings, people) -> None:  # type: ignore[no-untyped-def]
    ids = [f"{i}" for i in range(len(people))]
    probes = embeddings[::9]
    lists = []
    for shards in (1, 3, 7):
        gallery = grid.gallery("lfw/split", create=True, shards=shards, dim=512)
        gallery.enroll(embeddings, identities=people.tolist(), template_ids=ids)
        lists.append(gallery.search(probes, k=20, exact=True))
        grid.wait_until_idle()
        grid.drop("lfw/split")
    for other in lists[1:]:
        assert other.template_ids == lists[0].template_ids
        np.testing.assert_array_equal(other.scores, lists[0].scores)
