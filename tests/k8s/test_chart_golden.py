"""The examples render to what tests/k8s/golden has."""

from pathlib import Path

import pytest

from tests.k8s import charts, goldens


@pytest.mark.parametrize("example", charts.EXAMPLES)
def test_an_example_renders_to_its_golden_file(example: str) -> None:
    said = goldens.difference(example)
    assert not said, said


def test_there_is_a_golden_file_for_each_example_and_no_other() -> None:
    assert {path.stem for path in goldens.GOLDEN.iterdir()} == set(charts.EXAMPLES) == {"small", "production", "gpu"}


def test_a_change_is_shown_as_a_diff(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(goldens, "GOLDEN", tmp_path)
    text = goldens.rendered("small")
    (tmp_path / "small.yaml").write_text(text.replace("replicas: 2", "replicas: 3", 1))
    said = goldens.difference("small").splitlines()
    assert [line for line in said if line.startswith(("-", "+")) and "replicas" in line] == [
        "-  replicas: 3",
        "+  replicas: 2",
    ]
    assert said[-1] == goldens.RENEW
    goldens.main()
    assert goldens.difference("small") == ""
    assert {path.stem for path in tmp_path.iterdir()} == set(charts.EXAMPLES)
