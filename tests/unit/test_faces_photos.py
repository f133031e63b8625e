"""Walking folders, and what the face package does without its extras."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.faces import walk_photos
from cluster.faces.extras import require_cv2, require_onnxruntime
from shard.errors import InvalidParameter, MissingExtra


def test_folders_name_identities_in_sorted_order(tmp_path: Path) -> None:
    for name in (
        "Bob/2.jpg",
        "Bob/1.png",
        "Ann/no suffix",
        "Ann/deep/x.jpg",
        "flat.jpg",
        ".hidden/a.jpg",
        "Ann/.thumb.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"anything")
    (tmp_path / "linked").symlink_to(tmp_path / "Bob")
    found = [(str(photo.path.relative_to(tmp_path)), photo.identity) for photo in walk_photos(tmp_path)]
    assert found == [
        ("Ann/deep/x.jpg", "Ann"),
        ("Ann/no suffix", "Ann"),
        ("Bob/1.png", "Bob"),
        ("Bob/2.jpg", "Bob"),
        ("flat.jpg", None),
    ]


def test_a_missing_folder_and_a_file_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="expected a folder of photos"):
        walk_photos(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidParameter, match="expected a folder of photos"):
        walk_photos(tmp_path / "file")


def test_importing_needs_no_extra() -> None:
    program = (
        "import sys\n"
        "sys.modules['cv2'] = sys.modules['onnxruntime'] = None\n"  # what Python itself does for a blocked import
        "import cluster.faces\n"
        "from shard.errors import MissingExtra\n"
        "try:\n"
        "    cluster.faces.FacePipeline()\n"
        "except MissingExtra as error:\n"
        "    print(error)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert "pip install 'facegrid[faces]'" in done.stdout


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for require in (require_cv2, require_onnxruntime):
        with pytest.raises(MissingExtra, match=r"facegrid\[faces\]"):
            require()
