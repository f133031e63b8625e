"""What is secret comes by reference: never as text in a manifest, and to those alone who need it."""

import re
from collections.abc import Iterator

from tests.k8s.workloads import Manifest, pods

SAYS_SECRET = re.compile(
    r"password|passwd|secret|token|credential|private|api_?key|access_?key|(^|_)key($|_)", re.IGNORECASE
)
# Names that sound so, with values that are none: a file's path, a mode, a choice.
PATHS = re.compile(r"/[\w./-]*")
HARMLESS = {"RAY_AUTH_MODE"}
URL_WITH_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:[^\s/@]+@", re.IGNORECASE)
LOOKS_SECRET = re.compile(
    r"-----BEGIN|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{10,}\.|\bgh[pousr]_\w{20,}|\b[0-9a-f]{40,}\b|fg[a-z]*_[A-Za-z0-9]{20,}"
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def no_literals(manifests: list[Manifest]) -> Iterator[str]:
    """No environment variable that is named like a secret has a value, no text anywhere looks like one."""
    for pod in pods(manifests):
        for where, one, _ in pod.containers():
            for env in one.get("env") or []:
                value = env.get("value", "")
                if (
                    SAYS_SECRET.search(env["name"])
                    and value
                    and env["name"] not in HARMLESS
                    and not PATHS.fullmatch(value)
                ):
                    yield f"{where} has the value of {env['name']} as text"
    for manifest in manifests:
        for path, text in _texts(manifest, f"{manifest['kind']}/{manifest['metadata']['name']}"):
            if URL_WITH_PASSWORD.search(text) or LOOKS_SECRET.search(DIGEST.sub("", text)):
                yield f"{path} looks like a secret: {text[:24]!r}…"


def no_secret_objects(manifests: list[Manifest]) -> Iterator[str]:
    """The chart makes no Secret: helm would keep what is in it in the release's own history."""
    yield from (f"Secret/{one['metadata']['name']}" for one in manifests if one["kind"] == "Secret")


def keys_are_for_control(manifests: list[Manifest]) -> Iterator[str]:
    """The catalog's URL and the master key are in the control pod alone (and the trial's password at PostgreSQL)."""
    for pod in pods(manifests):
        if pod.component in ("control", "postgres"):
            continue
        for where, one, _ in pod.containers():
            for env in one.get("env") or []:
                if env["name"] in ("FACEGRID_CATALOG", "PGPASSWORD", "FACEGRID_ENCRYPTION_KEY", "POSTGRES_PASSWORD"):
                    yield f"{where} has {env['name']}"
            for mount in one.get("volumeMounts") or []:
                if "encryption" in mount["name"]:
                    yield f"{where} mounts {mount['name']}"


def secret_files_are_narrow(manifests: list[Manifest]) -> Iterator[str]:
    """Files of Secrets are for their owner and group, and mounted read-only."""
    for pod in pods(manifests):
        narrow = set()
        for volume in pod.spec.get("volumes") or []:
            if "secret" in volume:
                narrow.add(volume["name"])
                if volume["secret"].get("defaultMode", 0o644) & 0o007:
                    yield f"{pod.owner}: volume {volume['name']} can be read by everyone"
        for where, one, _ in pod.containers():
            for mount in one.get("volumeMounts") or []:
                if mount["name"] in narrow and not mount.get("readOnly"):
                    yield f"{where} mounts {mount['name']} to write to"


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(one, f"{path}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _texts(one, f"{path}[{i}]")


CHECKS = [no_literals, no_secret_objects, keys_are_for_control, secret_files_are_narrow]
