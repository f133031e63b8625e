"""The documentation of settings, commands and errors says all that there is, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from cluster.cli.app import command
from cluster.cli.exits import ExitCode, exit_code_of
from cluster.config import PREFIX, Settings
from cluster.faces import Refusal
from shard import errors

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def rows(text: str) -> list[list[str]]:
    """Cells of every table row, without heads and rules; an escaped bar does not end a cell."""
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in found]
    return [
        row for i, row in enumerate(cells) if not is_rule(row) and not (i + 1 < len(cells) and is_rule(cells[i + 1]))
    ]


def is_rule(row: list[str]) -> bool:
    return all(set(cell) <= {"-"} for cell in row)


def code(cell: str) -> str:
    return cell.strip("`")


def commands(group: Any = None, path: str = "facegrid") -> Iterator[tuple[str, Any]]:
    for name, found in sorted((group or command()).commands.items()):
        if hasattr(found, "commands"):
            yield from commands(found, f"{path} {name}")
        else:
            yield f"{path} {name}", found


def options(found: Any) -> set[str]:
    named = [option for option in found.params if option.param_type_name == "option"]
    return {name for option in named for name in (*option.opts, *option.secondary_opts)}


COMMANDS = dict(commands())
HELP = {"-h", "--help"}


def cli_sections() -> dict[str, str]:
    """Heading to text, of the part of docs/cli.md that describes commands."""
    text = (DOCS / "cli.md").read_text().partition("\n## Commands\n")[2]
    parts = re.split(r"^### `(.+)`$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_settings_are_documented_with_their_defaults() -> None:
    table = {code(row[0]): row for row in rows((DOCS / "configuration.md").read_text())}
    assert list(table) == list(Settings.model_fields)
    globals_ = options(command())
    for name, field in Settings.model_fields.items():
        _, variable, option, default, _ = table[name]
        assert code(variable) == PREFIX + name.upper()
        expected_option = f"--{name.replace('_', '-')}"
        assert code(option) == (expected_option if expected_option in globals_ else "none")
        assert code(default) == default_text(field.get_default(call_default_factory=True))


def default_text(value: object) -> str:
    if value is None:
        return "not set"
    if value == ():
        return "empty"
    return str(value).replace(str(Path.home()), "~")


def test_every_global_option_is_documented() -> None:
    text = (DOCS / "cli.md").read_text().partition("\n## Global options\n")[2].partition("\n## ")[0]
    documented = {name for row in rows(text) for name in OPTION.findall(row[0])}
    assert documented == options(command()) - HELP


def test_every_command_is_documented() -> None:
    assert {title.partition(" [")[0].rstrip(" ABCDEFGHIJKLMNOPQRSTUVWXYZ_") for title in cli_sections()} == set(
        COMMANDS
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented(name: str) -> None:
    (text,) = [body for title, body in cli_sections().items() if title == name or title.startswith((f"{name} ",))]
    documented = {option for row in rows(text) for option in OPTION.findall(row[0])}
    assert documented == options(COMMANDS[name]) - HELP
    # A global option may be mentioned anywhere; any other must be the command's own.
    mentioned = {option for span in re.findall(r"`(-[^`]+)`", text) for option in OPTION.findall(span)}
    assert mentioned <= documented | options(command())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_in_its_heading(name: str) -> None:
    (title,) = [title for title in cli_sections() if title == name or title.startswith(f"{name} ")]
    arguments = [param for param in COMMANDS[name].params if param.param_type_name == "argument"]
    assert title == " ".join([name, *(param.metavar for param in arguments)])
    assert COMMANDS[name].help, "a command says what it does"


def test_every_exit_code_is_documented() -> None:
    text = (DOCS / "cli.md").read_text().partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    assert [(int(row[0]), row[1]) for row in rows(text)] == [(int(code), code.name) for code in ExitCode]


def error_classes(root: type[errors.FacegridError] = errors.FacegridError) -> Iterator[type[errors.FacegridError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_classes(child)


def test_every_error_is_documented() -> None:
    table = [row for row in rows((DOCS / "errors.md").read_text()) if len(row) == 5]
    documented = {code(row[0]): (code(row[1]), row[2], int(row[3])) for row in table}
    expected = {
        cls.__name__: (cls.code, "yes" if cls.is_retryable else "no", int(exit_code_of(cls))) for cls in error_classes()
    }
    assert documented == expected


def test_error_codes_differ() -> None:
    codes = [cls.code for cls in error_classes()]
    assert len(set(codes)) == len(codes)


def test_every_reason_to_refuse_an_image_is_documented() -> None:
    table = [row for row in rows((DOCS / "errors.md").read_text()) if len(row) == 2]
    assert {code(row[0]) for row in table} == set(get_args(Refusal)) | set(reasons_in_source())


def test_every_reason_of_bulk_enrollment_is_documented() -> None:
    text = (DOCS / "bulk-enroll.md").read_text().partition("\n| reason | |")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`([a-z_]+)`", text))
    sources = " ".join(path.read_text() for path in (ROOT / "cluster" / "bulk").glob("*.py"))
    assert set(re.findall(r'reason="([a-z_]+)"', sources)) <= documented


def reasons_in_source() -> Iterator[str]:
    """Every text given as `reason=` in cluster/, but for bulk enrollment, which has a page of its own."""
    for path in (ROOT / "cluster").rglob("*.py"):
        if path.parent.name == "bulk":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                yield node.value.value
