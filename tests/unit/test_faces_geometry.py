"""Alignment, pose, quality, suppression and tiling: arithmetic that needs no network."""

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.faces import QualityGate
from cluster.faces.align import TEMPLATE, aligned_crop, similarity_transform
from cluster.faces.boxes import Detection, RawDetections, suppressed
from cluster.faces.detect import VISIBLE_PX, largest_tile_face, windows
from cluster.faces.quality import Quality, head_pose, measure, sharpness_of, tones_of

HEAD = np.array([[-18.9, 0.0, 0.0], [18.9, 0.0, 0.0], [0.0, 22.1, 18.0], [-16.8, 36.9, 3.0], [16.8, 36.9, 3.0]])


def landmarks_of(yaw: float = 0, pitch: float = 0, roll: float = 0, scale: float = 2.0) -> npt.NDArray[np.float32]:
    """The generic head turned (degrees; y points down, z to the viewer) and seen from far away."""
    y, p, r = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (scale * HEAD @ (tilt @ nod @ turn).T)[:, :2].astype(np.float32) + 200


@given(
    st.floats(-180, 180), st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500)
)  # fmt: skip
def test_similarity_transform_inverts_any_similarity(degrees: float, scale: float, dx: float, dy: float) -> None:
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    placed = TEMPLATE @ turn.T + [dx, dy]
    matrix = similarity_transform(placed.astype(np.float64))
    np.testing.assert_allclose(placed @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-6)


def test_similarity_transform_never_mirrors_and_wants_distinct_points() -> None:
    mirrored = TEMPLATE * [-1, 1]
    assert np.linalg.det(similarity_transform(mirrored)[:, :2]) > 0
    with pytest.raises(ValueError, match="distinct finite points"):
        similarity_transform(np.ones((5, 2), np.float32))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 12.0])
def test_aligned_crop_puts_landmarks_on_the_template(scale: float) -> None:
    """Discs drawn at the landmarks come out centred on the template, however large the face was."""
    side = int(160 * scale)
    picture = np.zeros((side, side, 3), np.uint8)
    placed = (TEMPLATE + 20) * scale
    for x, y in placed:
        cv2.circle(picture, (round(x * 16), round(y * 16)), round(5 * scale * 16), (255, 255, 255), -1, shift=4)
    crop = aligned_crop(picture, placed.astype(np.float32))
    assert crop.shape == (112, 112, 3)
    for x, y in TEMPLATE:
        patch = crop[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9, 0].astype(float)
        rows, columns = np.mgrid[-8:9, -8:9]
        assert abs((patch * columns).sum() / patch.sum() - (x - round(x))) < 0.4
        assert abs((patch * rows).sum() / patch.sum() - (y - round(y))) < 0.4


def test_aligned_crop_of_a_face_over_the_border_is_black_outside() -> None:
    white = np.full((112, 112, 3), 255, np.uint8)
    crop = aligned_crop(white, (TEMPLATE + np.array([60, 0])).astype(np.float32))
    assert crop[:, :50].min() == 255
    assert crop[:, 54:].max() == 0


@pytest.mark.parametrize("angle", [-40.0, -15.0, 0.0, 25.0, 45.0])
def test_head_pose_recovers_each_angle(angle: float) -> None:
    assert head_pose(landmarks_of(yaw=angle)).yaw == pytest.approx(angle, abs=1)
    assert head_pose(landmarks_of(pitch=angle)).pitch == pytest.approx(angle, abs=1)
    assert head_pose(landmarks_of(roll=angle)).roll == pytest.approx(angle, abs=1)


def test_eye_distance_is_undone_foreshortening() -> None:
    for yaw in (0, 30, 45):
        assert head_pose(landmarks_of(yaw=yaw, scale=3)).eye_distance_px == pytest.approx(3 * 37.8, rel=0.01)


def good(**changed: float) -> Quality:
    values = {
        "detector_score": 0.9, "eye_distance_px": 50.0, "sharpness": 0.5, "tones": 5.5, "yaw": 0.0, "pitch": 0.0,
        "roll": 0.0, "inside": 1.0, "score": 1.0,
    }  # fmt: skip
    return Quality(**(values | changed))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"detector_score": 0.79}, "low_detector_score"),
        ({"eye_distance_px": 17.0}, "too_small"),
        ({"inside": 0.8}, "off_image"),
        ({"yaw": -51.0}, "pose"),
        ({"pitch": 41.0}, "pose"),
        ({"roll": 61.0}, "pose"),
        ({"sharpness": 0.1}, "blurred"),
        ({"tones": 3.0}, "not_a_photo"),
        ({"sharpness": 0.1, "eye_distance_px": 5.0}, "too_small"),
    ],
)
def test_the_gate_names_the_first_reason(changed: dict[str, float], reason: str | None) -> None:
    assert QualityGate().for_detector(0.8).refusal(good(**changed)) == reason


def test_a_given_detector_score_wins_over_the_detectors_own() -> None:
    assert QualityGate(min_detector_score=0.5).for_detector(0.8).refusal(good(detector_score=0.6)) is None


def test_blur_lowers_sharpness_and_light_does_not() -> None:
    rng = np.random.default_rng(1)
    coarse = cv2.resize(rng.integers(0, 256, (7, 7, 3), np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
    crop = np.clip(coarse * 0.8 + rng.normal(20, 15, coarse.shape), 0, 255).astype(np.uint8)
    values = [sharpness_of(crop), *(sharpness_of(cv2.GaussianBlur(crop, (0, 0), s)) for s in (0.5, 0.8, 1.2))]
    assert values == sorted(values, reverse=True)
    dim = (crop * 0.4 + 20).astype(np.uint8)
    assert sharpness_of(dim) == pytest.approx(sharpness_of(crop), rel=0.05)
    assert sharpness_of(np.full((112, 112, 3), 90, np.uint8)) == 0


def test_few_tones_are_told_from_many() -> None:
    ramp = np.repeat(np.linspace(0, 255, 112).astype(np.uint8)[None, :, None], 112, axis=0).repeat(3, axis=2)
    assert tones_of(ramp) > 5
    assert tones_of((ramp // 128) * 255) <= 1.01
    assert tones_of(np.zeros((112, 112, 3), np.uint8)) == 0


def test_measure_knows_how_much_lies_outside() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    face = Detection((-50.0, 0.0, 100.0, 100.0), landmarks_of(scale=1.0) - 50, 0.9)
    quality = measure(image, face, aligned_crop(image, face.landmarks), QualityGate())
    assert quality.inside == pytest.approx(0.5)
    assert quality.score == 0.0
    # The box is whole here, but the landmarks say that half of the face would lie beyond the left border.
    cut = Detection((0.0, 150.0, 60.0, 100.0), landmarks_of(scale=1.0) - np.float32([200, 0]), 0.9)
    assert measure(image, cut, aligned_crop(image, cut.landmarks), QualityGate()).inside == pytest.approx(0.5, abs=0.05)


def raw(*rows: tuple[float, float, float, float, float]) -> RawDetections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return RawDetections(table[:, :4], np.zeros((len(table), 5, 2), np.float32), table[:, 4])


def test_suppression_keeps_the_best_and_orders_by_area() -> None:
    found = suppressed(raw((0, 0, 10, 10, 0.8), (1, 1, 10, 10, 0.9), (100, 0, 30, 30, 0.7), (50, 50, 10, 10, 0.9)), 0.3)
    assert [face.box for face in found] == [(100, 0, 30, 30), (1, 1, 10, 10), (50, 50, 10, 10)]
    assert suppressed(raw(), 0.3) == ()


@given(st.randoms(use_true_random=False))
def test_suppression_does_not_depend_on_order(random: object) -> None:
    rows = [(x * 7.0, y * 9.0, 20.0, 20.0, 0.9) for x in range(4) for y in range(3)]
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [f.box for f in suppressed(raw(*shuffled), 0.3)] == [f.box for f in suppressed(raw(*rows), 0.3)]


@given(st.integers(1, 12_000), st.integers(1, 12_000), st.floats(16, 200))
def test_windows_cover_the_image_and_show_the_smallest_face(width: int, height: int, face: float) -> None:
    whole, *tiles = windows(width, height, 640, face)
    assert (whole.x, whole.y, whole.width, whole.height) == (0, 0, width, height)
    assert max(width, height) * whole.scale <= 640 + 1e-6
    if not tiles:
        assert face * whole.scale >= VISIBLE_PX - 1e-6 or min(width, height) < face or whole.scale == 1
        return
    assert all(face * tile.scale >= VISIBLE_PX - 1e-6 for tile in tiles)
    assert all(max(tile.width, tile.height) * tile.scale <= 640.5 for tile in tiles)
    for start, extent, length in (("x", "width", width), ("y", "height", height)):
        spans = sorted({(getattr(tile, start), getattr(tile, start) + getattr(tile, extent)) for tile in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        lap = min(largest_tile_face(whole), int(640 / tiles[0].scale) // 2)
        assert all(before[1] - after[0] >= lap - 1.5 for before, after in pairwise(spans))
