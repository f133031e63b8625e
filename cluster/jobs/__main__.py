"""Run one job against a home that is open on Ray: what `ray job submit` starts.

    ray job submit -- python -m cluster.jobs --address HOST:PORT submit dedup acme/staff '{"threshold": 0.5}'
    ray job submit -- python -m cluster.jobs --address HOST:PORT resume JOB_ID

Needs the address of the Ray cluster and nothing else; it runs on the node that has the home's directory. Prints the job
as JSON when it begins and when it has ended, and exits with the code of `facegrid` (docs/cli.md). SIGTERM, which
`ray job stop` sends, cancels the job; it can be resumed.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType
from typing import Any

from cluster.api import Cluster
from cluster.cli.exits import ExitCode, exit_code_of
from cluster.config import load_settings
from coordinator.finding import open_home
from coordinator.job_types import JobRecord, JobState
from shard.errors import FacegridError, InvalidParameter, error_from_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say; the exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        with (
            open_home(given.address, given.home_id) as attachment,
            Cluster.attach(load_settings(home=attachment.home), attachment) as grid,
        ):
            ended = _run(grid, given)
    except FacegridError as error:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}), flush=True)
        return int(exit_code_of(type(error)))
    if ended.state is JobState.SUCCEEDED:
        return int(ExitCode.OK)
    return int(exit_code_of(type(error_from_code(ended.error_code or "job_cancelled", ""))))


def _run(grid: Cluster, given: argparse.Namespace) -> JobRecord:
    if given.verb == "resume":
        record = grid.jobs.resume(given.job_id, is_ours=True)
    else:
        record = grid.jobs.submit(given.kind, given.gallery, _parameters(given.parameters), is_ours=True)

    def cancel(_number: int, _frame: FrameType | None) -> None:
        # In a thread of its own: this one may be in the middle of a call to whom this calls.
        threading.Thread(target=grid.jobs.cancel, args=(record.job_id,), daemon=True).start()

    signal.signal(signal.SIGTERM, cancel)
    _show(record)
    ended = grid.jobs.run(record.job_id)
    _show(ended)
    return ended


def _show(record: JobRecord) -> None:
    print(json.dumps({"job": asdict(record)}, default=str), flush=True)


def _parameters(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InvalidParameter(f"parameters: expected a JSON object, got {text!r:.160}: {error}") from None
    if not isinstance(values, dict):
        raise InvalidParameter(f"parameters: expected a JSON object, got {text!r:.160}")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.jobs", description="Run a job of a home open on Ray.")
    parser.add_argument("--address", required=True, help="host:port of the Ray cluster")
    parser.add_argument("--home-id", help="which home, where several are open there")
    verbs = parser.add_subparsers(dest="verb", required=True)
    submit = verbs.add_parser("submit", help="submit a job and run it")
    submit.add_argument("kind", help="dedup, enroll, reembed or calibrate")
    submit.add_argument("gallery", help="tenant/gallery")
    submit.add_argument("parameters", nargs="?", default="{}", help="a JSON object")
    resume = verbs.add_parser("resume", help="run a job that failed, was cancelled or lost its process")
    resume.add_argument("job_id")
    return parser


if __name__ == "__main__":
    sys.exit(main())
