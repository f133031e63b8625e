"""The pipeline with real networks: batches, choices, refusals, both detectors, broken files, and `find_faces`."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.config import Settings, kept_settings
from cluster.faces import (
    FacePipeline,
    ImageArray,
    ModelPlaces,
    PipelineOptions,
    QualityGate,
    decode_image,
    select_face,
)
from cluster.faces.onnx_graph import repaired
from cluster.faces.session import available_devices
from cluster.find import find_faces
from cluster.service.embedders import EmbedderProcess
from shard.errors import InvalidImage, InvalidParameter, ModelFileCorrupt, ModelFileMissing

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def options(data_dir: Path) -> PipelineOptions:
    return PipelineOptions(embedder="edgeface_xs", places=ModelPlaces((data_dir / "models",)), batch_size=3, threads=2)


@pytest.fixture(scope="module")
def pipeline(options: PipelineOptions) -> FacePipeline:
    return FacePipeline(options)


@pytest.fixture(scope="module")
def face_photo(data_dir: Path) -> ImageArray:
    return decode_image(data_dir / "photos" / "img10.jpg")


def jpeg(picture: ImageArray) -> bytes:
    return bytes(cv2.imencode(".jpg", picture[:, :, ::-1])[1])


def test_faces_are_largest_first_with_unit_embeddings(pipeline: FacePipeline, data_dir: Path) -> None:
    faces = pipeline.faces(data_dir / "photos" / "selfie-many-people.jpg", embed_refused=True)
    assert len(faces) == 6
    areas = [face.box[2] * face.box[3] for face in faces]
    assert areas == sorted(areas, reverse=True)
    for face in faces:
        assert face.embedding is not None
        assert face.embedding.shape == (pipeline.dim,) == (512,)
        assert face.embedding.dtype == np.float32
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        x, y, w, h = face.box
        assert ((face.landmarks - [x, y] > -0.1 * w) & (face.landmarks - [x, y] < 1.1 * h)).all()
        assert face.landmarks[0, 0] < face.landmarks[1, 0]
    assert all(
        (f.embedding is None) == (f.refused is not None) for f in pipeline.faces(data_dir / "photos" / "img62.jpg")
    )


def test_a_batch_equals_one_by_one_and_keeps_going(pipeline: FacePipeline, data_dir: Path) -> None:
    paths = [data_dir / "photos" / f"img{number}.jpg" for number in (10, 12, 14, 16, 17, 27, 34)]
    images: list[Path | bytes] = [*paths[:2], b"a text file named .jpg", *paths[2:]]
    results = list(pipeline.faces_of_many(images))
    assert len(results) == len(images)
    assert results[2].error is not None
    assert results[2].error.reason == "not_an_image"
    with pytest.raises(InvalidImage, match="expected JPEG"):
        results[2].chosen()
    for image, result in zip(images, results, strict=True):
        if result.error is None:
            alone = pipeline.embed_image(image)
            batched = result.chosen().embedding
            assert batched is not None
            assert float(alone @ batched) == pytest.approx(1, abs=1e-5)
    assert list(pipeline.faces_of_many([])) == []


def test_sizes_and_places_give_the_same_embedding(pipeline: FacePipeline, face_photo: ImageArray) -> None:
    """A large canvas is searched in tiles; the face found there is the same person with the same score."""
    alone = pipeline.embed_image(face_photo)
    small = cv2.resize(face_photo, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    canvas = np.full((3200, 4800, 3), 200, np.uint8)
    canvas[2000 : 2000 + small.shape[0], 3100 : 3100 + small.shape[1]] = small
    face = select_face(pipeline.faces(canvas))
    assert face.embedding is not None
    assert float(alone @ face.embedding) > 0.9
    assert 3100 < face.box[0] < 3100 + small.shape[1]


def test_each_degradation_is_named(pipeline: FacePipeline, face_photo: ImageArray) -> None:
    degraded = {
        "too_small": cv2.resize(face_photo, None, fx=0.12, fy=0.12, interpolation=cv2.INTER_AREA),
        "blurred": cv2.GaussianBlur(face_photo, (0, 0), 8),
    }
    for reason, picture in degraded.items():
        with pytest.raises(InvalidImage, match="refused") as raised:
            pipeline.embed_image(picture)
        assert raised.value.reason == reason


@pytest.mark.parametrize("number", [1, 10, 13, 20, 40])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_is_never_enrolled(pipeline: FacePipeline, data_dir: Path, number: int, turns: int) -> None:
    """Detectors find faces on their side with upright landmarks; the embedding would be nobody's."""
    photo = decode_image(data_dir / "photos" / f"img{number}.jpg")
    faces = pipeline.faces(np.rot90(photo, turns))
    assert [face.refused for face in faces if face.refused is None] == []


def test_the_gates_reasons_reach_the_caller(options: PipelineOptions, face_photo: ImageArray) -> None:
    gates = {
        "low_detector_score": QualityGate(min_detector_score=0.999),
        "too_small": QualityGate(min_eye_distance_px=5000),
        "pose": QualityGate(max_pitch=0.0),
        "blurred": QualityGate(min_sharpness=9.0),
        "not_a_photo": QualityGate(min_tones=7.0),
    }
    for reason, gate in gates.items():
        with pytest.raises(InvalidImage, match="refused") as raised:
            FacePipeline(replace(options, gate=gate)).embed_image(face_photo)
        assert raised.value.reason == reason


def test_a_face_cut_by_the_border_is_off_image(pipeline: FacePipeline, face_photo: ImageArray) -> None:
    x, _y, w, _h = select_face(pipeline.faces(face_photo)).box
    cut = np.ascontiguousarray(face_photo[:, int(x + 0.3 * w) :])
    assert all(face.refused is not None for face in pipeline.faces(cut))


def test_no_face_and_several_faces(pipeline: FacePipeline, data_dir: Path) -> None:
    with pytest.raises(InvalidImage) as raised:
        pipeline.embed_image(np.zeros((50, 50, 3), np.uint8))
    assert raised.value.reason == "no_face"
    with pytest.raises(InvalidImage) as raised:
        pipeline.embed_image(data_dir / "photos" / "couple.jpg", select="only")
    assert raised.value.reason == "several_faces"


def test_both_detectors_agree(options: PipelineOptions, pipeline: FacePipeline, face_photo: ImageArray) -> None:
    other = FacePipeline(replace(options, detector="scrfd_500m"))
    assert float(pipeline.embed_image(face_photo) @ other.embed_image(face_photo)) > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (700, 2), (13, 17), (641, 639)])
def test_odd_sizes_do_not_break_it(pipeline: FacePipeline, size: tuple[int, int]) -> None:
    assert pipeline.faces(np.full((*size, 3), 128, np.uint8)) == ()


def test_missing_and_corrupt_model_files(options: PipelineOptions, data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileMissing, match="facegrid models pull yunet_2023mar"):
        FacePipeline(replace(options, places=ModelPlaces((tmp_path,))))
    source = (data_dir / "models" / "edgeface_xs.onnx").read_bytes()
    (tmp_path / "edgeface_xs.onnx").write_bytes(source[:-1] + bytes([source[-1] ^ 1]))
    with pytest.raises(ModelFileCorrupt, match="expected SHA-256"):
        FacePipeline(replace(options, embedder_path=tmp_path / "edgeface_xs.onnx"))
    (tmp_path / "w600k_r50.onnx").write_bytes(b"no network at all")
    with pytest.raises(ModelFileCorrupt, match="onnxruntime cannot load it"):
        FacePipeline(replace(options, embedder="w600k_r50", embedder_path=tmp_path / "w600k_r50.onnx"))
    shutil.copy(data_dir / "models" / "sface_int8.onnx", tmp_path / "w600k_r50.onnx")
    with pytest.raises(ModelFileCorrupt):
        FacePipeline(replace(options, embedder="w600k_r50", embedder_path=tmp_path / "w600k_r50.onnx"))


def test_options_are_checked(options: PipelineOptions) -> None:
    with pytest.raises(InvalidParameter, match="batch_size"):
        replace(options, batch_size=0)
    with pytest.raises(InvalidParameter, match="expected a device"):
        FacePipeline(replace(options, device="tpu"))  # type: ignore[arg-type]


def test_repairing_a_sound_graph_changes_nothing(data_dir: Path) -> None:
    for name, input_name in (("sface_int8", "data"), ("edgeface_xs", "input"), ("edgeface_xs", None)):
        model = (data_dir / "models" / f"{name}.onnx").read_bytes()
        assert repaired(model, input_name) == model
    with pytest.raises(ValueError, match="no input b'absent'"):
        repaired((data_dir / "models" / "edgeface_xs.onnx").read_bytes(), "absent")


def test_finding_a_person_in_a_folder(pipeline: FacePipeline, data_dir: Path, tmp_path: Path) -> None:
    """img1 and img2 show one person, who is one of the two in couple.jpg; img34 shows another."""
    for name in ("img1.jpg", "img2.jpg", "img34.jpg", "couple.jpg"):
        shutil.copy(data_dir / "photos" / name, tmp_path / name)
    (tmp_path / "notes.jpg").write_text("not a picture")
    (tmp_path / ".hidden.jpg").write_text("not looked at")
    seen: list[tuple[int, int]] = []
    found: list[Path] = []
    result = find_faces(
        tmp_path / "img2.jpg",
        tmp_path,
        pipeline=pipeline,
        progress=lambda done, total: seen.append((done, total)),
        on_match=lambda match: found.append(match.path),
    )
    assert [match.path.name for match in result.matches] == ["img2.jpg", "couple.jpg", "img1.jpg"]
    assert result.matches[0].score == pytest.approx(1, abs=1e-5)
    assert set(found) == {match.path for match in result.matches}
    assert [(entry.path.name, entry.reason) for entry in result.refused] == [("notes.jpg", "not_an_image")]
    assert (result.photos, result.min_score) == (5, pipeline.threshold)
    assert seen == [(done, 5) for done in range(1, 6)]
    everyone = find_faces(tmp_path / "img2.jpg", tmp_path, pipeline=pipeline, min_score=-1)
    assert len(everyone.matches) == everyone.faces == 5
    assert not find_faces(tmp_path / "img2.jpg", tmp_path, pipeline=pipeline, min_face_px=9000).matches


def test_finding_refuses_bad_parameters(pipeline: FacePipeline, data_dir: Path, tmp_path: Path) -> None:
    query = data_dir / "photos" / "img2.jpg"
    with pytest.raises(InvalidParameter, match=r"min_score in \[-1, 1\]"):
        find_faces(query, tmp_path, pipeline=pipeline, min_score=1.5)
    with pytest.raises(InvalidParameter, match="min_face_px"):
        find_faces(query, tmp_path, pipeline=pipeline, min_face_px=-1)
    with pytest.raises(InvalidParameter, match="folder of photos"):
        find_faces(query, tmp_path / "absent", pipeline=pipeline)
    with pytest.raises(InvalidImage) as raised:
        find_faces(np.zeros((40, 40, 3), np.uint8), tmp_path, pipeline=pipeline)
    assert raised.value.reason == "no_face"


def test_a_device_that_is_not_there_is_no_other_one(options: PipelineOptions) -> None:
    if "cuda" in available_devices():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(InvalidParameter, match="onnxruntime-gpu"):
        FacePipeline(replace(options, device="cuda"))
    opened = EmbedderProcess(kept_settings(Settings()), "cuda").open()
    assert opened.code == InvalidParameter.code
    assert "onnxruntime-gpu" in opened.message
