"""Disk full, read-only or failing, too many open files, too little memory: reads go on, writes are refused by name.

Once the fault is gone, writes work again without restarting the process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.forkserver import ForkServer, Report

LACKS = {
    "disk_full": "WriteFailed",
    "file_too_large": "WriteFailed",
    "read_only_file_system": "WriteFailed",
    "failing_disk": "WriteFailed",
    "too_many_files": "WriteFailed",
    "memory_limit": "WriteFailed",
    "memory_limit_for_maps": "WriteFailed",
}


@pytest.mark.parametrize("lack", LACKS)
def test_reads_go_on_and_writes_are_refused_by_name(
    lack: str, forkserver: ForkServer, case: Path, saved_models: Path
) -> None:
    report = lacking(lack, forkserver, case, saved_models)
    assert not report.said("unnamed")
    assert report.said("refused") == [LACKS[lack]]
    assert not report.said("wrong"), "\n".join(report.said("wrong"))
    assert report.said("end") == [True]


@pytest.mark.parametrize("lack", LACKS)
def test_writes_work_again_without_reopening(lack: str, forkserver: ForkServer, case: Path, saved_models: Path) -> None:
    report = lacking(lack, forkserver, case, saved_models)
    assert report.said("recovered") == [True], report.said("message")


def test_a_read_only_disk_is_named_when_a_shard_opens(forkserver: ForkServer, case: Path, saved_models: Path) -> None:
    report = lacking("read_only_mount", forkserver, case, saved_models)
    assert not report.said("wrong"), "\n".join(report.said("wrong"))
    assert report.said("recovered") == [True]
    assert report.said("refused") in ([], ["WriteFailed"], ["StorageError"])


def lacking(lack: str, forkserver: ForkServer, case: Path, saved_models: Path) -> Report:
    """One task of `tests.crash.resources`; skipped where it needs rights that this machine does not give."""
    report = forkserver.call(f"tests.crash.resources:{lack}", directory=str(case), saved=str(saved_models))
    for reason in report.said("unavailable"):
        pytest.skip(reason)  # file_too_large runs everywhere
    print(f"{lack}: refused with {report.said('refused')}: {report.said('message')}")
    return report
