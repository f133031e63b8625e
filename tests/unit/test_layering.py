"""The walls of the house: native <- shard <- coordinator <- cluster, and one room for each dangerous thing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ["shard", "coordinator", "cluster"]
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))

ROOMS = {
    "ray": ("coordinator/runtime.py", "coordinator/actors.py", "coordinator/ray_data.py", "coordinator/ray_tasks.py"),
    "shard._native": ("shard/index.py", "shard/model.py"),
    "onnxruntime": ("cluster/faces/",),
    "cv2": ("cluster/faces/",),
    "fastapi": ("cluster/service/",),
    "starlette": ("cluster/service/",),
    "cryptography": ("shard/encryption.py",),
    "sqlcipher3": ("shard/cipher_database.py",),
    "pickle": (),
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_to_its_right(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    forbidden = [*LAYERS[LAYERS.index(layer) + 1 :], "benchmarks", "tests"]
    wrong = [module for module in imports(path) for package in forbidden if is_within(module, package)]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_wall_has_one_room_behind_it(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    wrong = [
        (module, package)
        for module in imports(path)
        for package, rooms in ROOMS.items()
        if is_within(module, package) and not name.startswith(rooms)
    ]
    assert not wrong


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_environment_and_fsync_have_one_room(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    used = set(calls(path))
    # Ray and ONNX Runtime take settings from the environment alone: these files set them, and read none.
    if name not in ("cluster/config.py", "coordinator/actors.py", "cluster/faces/extras.py"):
        assert not used & {"os.environ", "os.getenv"}
    if name != "shard/files.py":
        assert not used & {"os.fsync", "os.rename", "os.replace", "os.ftruncate", "os.pwrite"}


def test_there_are_no_import_cycles() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SOURCES}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {name: _static_imports(path, modules) for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import cycle: {' -> '.join((*path, name))}"
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def _static_imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """Imports of our own modules at the top level: those that run on import."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    own = {name for name in found if name in modules}
    # `from package import module` names the package too, whose __init__ is then already being imported.
    return {name for name in own if not any(other.startswith(f"{name}.") for other in own)}
