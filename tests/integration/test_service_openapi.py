"""The OpenAPI document, and the service against it: Schemathesis sends what the document allows, and what it does not.

Bounded in CI; FACEGRID_TORTURE asks for more examples.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.service import Running, faces_like, running

EXAMPLES = 200 if "FACEGRID_TORTURE" in os.environ else 2
LIMIT_S = 3600 if "FACEGRID_TORTURE" in os.environ else 240
METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("openapi")
    patch = pytest.MonkeyPatch()
    patch.setenv("ALL_PROXY", "http://127.0.0.1:9")  # no network is fetched: photos are answered with 501
    patch.setenv("NO_PROXY", "127.0.0.1")
    with running(home / "home", snapshot_store=str(home / "store")) as s:
        s.tenant("acme")
        s.cluster.gallery("acme/staff", create=True, dim=64, shards=1).enroll(
            faces_like(3), template_ids=["t1", "t2", "t3"], identities=["alice", "bob", None]
        )
        yield s
    patch.undo()


@pytest.fixture(scope="module")
def document(service: Running) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{service.url}/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, said in item.items():
            if method in METHODS:
                yield path, method, said


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_each_operation_is_named_and_told(document: dict[str, Any]) -> None:
    names = [said["operationId"] for _, _, said in operations(document)]
    assert len(set(names)) == len(names)
    for path, method, said in operations(document):
        assert said["summary"], (method, path)
        assert said["summary"] != said["operationId"], "the handler's docstring is missing"
        assert said["tags"], (method, path)
        content = said.get("requestBody", {}).get("content", {})
        assert not content or "example" in content["application/json"], (method, path)


def test_examples_meet_their_schemas(document: dict[str, Any]) -> None:
    for path, method, said in operations(document):
        found = said.get("requestBody", {}).get("content", {}).get("application/json", {})
        if found:
            schema = {**found["schema"], "components": document["components"]}
            assert list(Draft202012Validator(schema).iter_errors(found["example"])) == [], (method, path)


def test_each_refusal_is_a_problem_document(document: dict[str, Any]) -> None:
    for path, method, said in operations(document):
        for status, answer in said["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
        is_public = said.get("security") == []
        assert ("401" in said["responses"]) != is_public, (method, path)


HOOKS = '''
import msgpack
import schemathesis


@schemathesis.serializer("application/msgpack")
def as_msgpack(ctx, value):
    try:
        return msgpack.packb(value, default=str)
    except (OverflowError, ValueError):
        return b"\\xc1"  # a number that msgpack has not


@schemathesis.check
def never_fails(ctx, response, case):
    """No fault of the service; refusals have their form."""
    status = response.status_code
    assert status < 500 or status in (501, 503, 504), f"{status}: {response.text}"
    assert "x-request-id" in response.headers
    if status >= 400:
        assert response.headers["content-type"] == ["application/problem+json"], response.headers
        problem = response.json()
        assert problem["status"] == status
        assert problem["type"] == "urn:facegrid:error:" + problem["code"]
        assert problem["request_id"] == response.headers["x-request-id"][0]


@schemathesis.hook
def before_call(context, case, kwargs):
    """Ask of what is there, most of the time; leave the tenant and its keys as they are."""
    given = case.path_parameters
    if given and len(str(given)) % 4:
        for name, value in (("tenant", "acme"), ("gallery", "staff"), ("template_id", "t1")):
            if name in given:
                given[name] = value
'''


@pytest.mark.parametrize("who", ["operator", "admin"])
def test_whatever_is_sent_is_answered_as_documented(service: Running, tmp_path: Path, who: str) -> None:
    """Against the real service over HTTP, by Schemathesis."""
    key = service.operator if who == "operator" else service.key("acme", "admin")
    (tmp_path / "hooks.py").write_text(HOOKS)
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "run", f"{service.url}/openapi.json", "--url", service.url,
        "--header", f"Authorization: Bearer {key}",
        "--phases", "examples,fuzzing", "--mode", "all", "--max-examples", str(EXAMPLES), "--seed", "20261122",
        "--generation-database", "none", "--request-timeout", "30", "--continue-on-failure",
        "--checks", "never_fails,content_type_conformance,response_schema_conformance",
        "--exclude-operation-id", "tenants.drop", "--exclude-operation-id", "galleries.drop",
        "--exclude-operation-id", "keys.revoke", "--exclude-operation-id", "keys.rotate",
        "--no-color",
    ]  # fmt: skip
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
