"""The face pipeline on real photos: verification of labelled pairs, and nothing enrolled from faceless pictures.

The thresholds come from LFW identities that have nothing to do with these photos: on half of them (every second name),
the least cosine whose false match rate over all non-mated pairs is at most 1e-4.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cluster.faces import FacePipeline, ImageFaces, ModelPlaces, PipelineOptions, model_spec
from shard.types import FloatArray
from tests.accuracy.faceless import FACELESS

pytestmark = pytest.mark.data

FMR = 1e-4
LFW_FILES = {"edgeface_xs": "edgeface_xs_512.npy", "mobilefacenet_512": "mobilefacenet_512.npy"}
Results = dict[str, ImageFaces]


@pytest.fixture(scope="session")
def open_pipeline(data_dir: Path) -> Callable[[str], FacePipeline]:
    places = ModelPlaces((data_dir / "models",))
    return lambda embedder: FacePipeline(PipelineOptions(embedder=embedder, places=places))


@pytest.fixture(scope="session")
def photos_of(data_dir: Path, open_pipeline: Callable[[str], FacePipeline]) -> Callable[[str], Results]:
    """Every photo through the pipeline, once per embedder and session."""
    done: dict[str, Results] = {}
    paths = sorted((data_dir / "photos").glob("*.jpg"))

    def results(embedder: str) -> Results:
        if embedder not in done:
            found = open_pipeline(embedder).faces_of_many(paths)
            done[embedder] = {path.name: faces for path, faces in zip(paths, found, strict=True)}
        return done[embedder]

    return results


def labelled_pairs(data_dir: Path) -> list[tuple[str, str, bool]]:
    with (data_dir / "photos" / "master.csv").open(newline="") as file:
        return [(row["file_x"], row["file_y"], row["Decision"] == "Yes") for row in csv.DictReader(file)]


def lfw_threshold(data_dir: Path, embedder: str) -> float:
    """The least cosine with FMR <= 1e-4 over the non-mated pairs of every second LFW identity."""
    _names, person = np.unique((data_dir / "lfw" / "identities.txt").read_text().split(), return_inverse=True)
    embeddings: FloatArray = np.load(data_dir / "lfw" / LFW_FILES[embedder]).astype(np.float32)
    assert len(embeddings) == len(person)
    training = person % 2 == 0
    rows, person = embeddings[training], person[training]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    impostors = np.concatenate([_impostor_scores(rows, person, start) for start in range(0, len(rows), 1024)])
    allowed = int(FMR * len(impostors))
    return float(np.partition(impostors, -allowed - 1)[-allowed - 1]) + 1e-6


def _impostor_scores(rows: FloatArray, person: npt.NDArray[np.int64], start: int) -> FloatArray:
    """Cosines of rows start to start + 1024 with every later row of another person."""
    scores = rows[start : start + 1024] @ rows.T
    own = np.arange(start, start + len(scores))
    return scores[(np.arange(len(rows)) > own[:, None]) & (person != person[own, None])]


def test_master_csv_has_the_pairs_that_the_figures_are_of(data_dir: Path) -> None:
    pairs = labelled_pairs(data_dir)
    assert len(pairs) == 300
    assert {same for _x, _y, same in pairs} == {True, False}


@pytest.mark.parametrize("embedder", ["edgeface_xs", "mobilefacenet_512", "sface_int8"])
def test_verification_of_labelled_pairs(
    embedder: str, data_dir: Path, photos_of: Callable[[str], Results], capsys: pytest.CaptureFixture[str]
) -> None:
    published = model_spec(embedder).threshold
    assert published is not None
    threshold = lfw_threshold(data_dir, embedder) if embedder in LFW_FILES else published
    pairs, results = labelled_pairs(data_dir), photos_of(embedder)
    embedding = {name: faces.chosen().embedding for name, faces in results.items()}
    scores = np.array([float(np.dot(embedding[x], embedding[y])) for x, y, _same in pairs])
    same = np.array([label for _x, _y, label in pairs])
    accuracy = float(((scores >= threshold) == same).mean())
    with capsys.disabled():
        print(
            f"\n{embedder}: accuracy {accuracy:.4f} on {len(pairs)} pairs at threshold {threshold:.3f}; worst mated "
            f"{scores[same].min():.3f}, best non-mated {scores[~same].max():.3f}"
        )
    assert accuracy >= 0.99
    assert abs(threshold - published) < 0.02


def test_every_photo_of_a_person_passes_the_gate(data_dir: Path, photos_of: Callable[[str], Results]) -> None:
    results = photos_of("edgeface_xs")
    people = {name for x, y, _same in labelled_pairs(data_dir) for name in (x, y)}
    refused = {name: results[name].faces for name in people if not any(f.refused is None for f in results[name].faces)}
    assert not refused
    assert len([face for face in results["couple.jpg"].faces if face.refused is None]) == 2


@pytest.mark.parametrize("name", FACELESS)
def test_nothing_is_enrolled_from_a_picture_without_a_face(
    name: str, open_pipeline: Callable[[str], FacePipeline]
) -> None:
    pictures = [FACELESS[name](seed) for seed in range(5)]
    for seed, result in enumerate(open_pipeline("edgeface_xs").faces_of_many(pictures)):
        assert result.error is None
        assert [face.refused for face in result.faces if face.refused is None] == [], f"seed {seed}"
        assert all(face.embedding is None for face in result.faces)
