"""The programs that the other tests here rely on are there, and a wheel of another digest is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s import tools


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("helm", ["version", "--short"]),
        ("kubectl", ["version", "--client"]),
        ("yamllint", ["--version"]),
        ("shellcheck", ["--version"]),
        ("hadolint", ["--version"]),
    ],
)
def test_the_program_answers(name: str, arguments: list[str]) -> None:
    ran = subprocess.run([tools.program(name), *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_program_that_could_be_had_is_no_reason_to_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "can_be_had", lambda: True)
    with pytest.raises(AssertionError, match=r"make \.stamp/k8s"):
        tools.program("helm")
    monkeypatch.setattr(tools, "can_be_had", lambda: False)
    with pytest.raises(pytest.skip.Exception, match="no helm"):
        tools.program("helm")


def test_the_requirement_names_one_wheel_with_its_digest() -> None:
    lines = [line for line in tools.REQUIREMENT.read_text().splitlines() if not line.startswith("#")]
    assert "==" in lines[0]
    assert "--hash=sha256:" in lines[1]
    assert len(lines) == 2
