"""Photos in folders and under prefixes of buckets: `<folder>/<identity>/<photo>`, or those that a manifest names.

    {"path": "a/1.jpg", "identity": "ann", "template_id": null, "metadata": {"site": "north"}}      JSON lines
    path,identity,template_id,site                                                                  CSV with a header

Of a CSV, other columns are metadata, as text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace

from cluster.bulk.items import WHOLE, Item, ItemTables
from cluster.bulk.places import ListedFile, SourceFiles
from cluster.bulk.tars import label_fields, labelled
from cluster.images import source_text
from shard.errors import InvalidFile

MAX_MANIFEST = 1 << 30
_OWN = ("identity", "template_id")


def list_folder(files: SourceFiles, tables: ItemTables, *, max_bytes: int) -> None:
    """Every file below a folder is an item, its identity the folder at the top; hidden ones are passed over."""
    root = len(files.path.rstrip("/")) + 1
    for file in files.below():
        name = file.path[root:]
        folder, slash, _ = name.partition("/")
        _add(tables, file, Item(source_text(name), 0, WHOLE, file.size, folder if slash else None), max_bytes)


def list_manifest(files: SourceFiles, manifest: SourceFiles, tables: ItemTables, *, max_bytes: int) -> None:
    """The items that a manifest names, in its order, below a folder. InvalidFile if it is no manifest."""
    there = {file.path: file for file in files.below()}
    for item in _manifest(manifest):
        parts = item.name.split("/")
        if item.reason is None and (item.name.startswith("/") or ".." in parts or "\0" in item.name):
            item = replace(item, reason="unsafe_path", message="the path leads out of the folder")
        file = there.get("/".join([files.path.rstrip("/"), *(part for part in parts if part not in ("", "."))]))
        if file is None and item.reason is None:
            item = replace(item, reason="missing", message="no such file is in the folder, or it is hidden")
        _add(tables, file or ListedFile(item.name, 0, 0), replace(item, size=file.size if file else 0), max_bytes)


def _add(tables: ItemTables, file: ListedFile, item: Item, max_bytes: int) -> None:
    if item.reason is None and file.is_link:
        item = replace(item, reason="link", message="expected a file, got a link or a device")
    elif item.reason is None and file.size > max_bytes:
        message = f"expected at most {max_bytes:,} bytes, got {file.size:,}"
        item = replace(item, reason="too_many_bytes", message=message)
    tables.add(replace(item, file=tables.add_file(file)))


def _manifest(manifest: SourceFiles) -> Iterator[Item]:
    file = manifest.stat(manifest.path)
    if file.size > MAX_MANIFEST:
        raise InvalidFile(f"{file.path}: expected a manifest of at most {MAX_MANIFEST:,} bytes, got {file.size:,}")
    with manifest.open(file) as opened:
        data = opened.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{file.path}: expected UTF-8: {error}") from error
    yield from _csv(text, file.path) if file.path.endswith(".csv") else _json_lines(text, file.path)


def _json_lines(text: str, path: str) -> Iterator[Item]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            name = value.get("path") if isinstance(value, dict) else None
            if not isinstance(name, str) or not name:
                raise ValueError("expected an object with a path")
        except (ValueError, RecursionError) as error:
            raise InvalidFile(f"{path}: line {number}: {error}") from error
        yield _labelled(name, value)


def _csv(text: str, path: str) -> Iterator[Item]:
    rows = csv.DictReader(io.StringIO(text), strict=True)
    if "path" not in (rows.fieldnames or ()):
        raise InvalidFile(f"{path}: expected a header with a column path, got {text.partition(chr(10))[0]!r:.80}")
    try:
        for row in rows:
            if row.get("path") in (None, "") or None in row or None in row.values():
                raise csv.Error("expected a value for each column")
            extra = {key: value for key, value in row.items() if key not in ("path", *_OWN) and value}
            label = {key: row[key] for key in _OWN if row.get(key)}
            yield _labelled(row["path"], {**label, "metadata": extra or None})
    except csv.Error as error:
        raise InvalidFile(f"{path}: line {rows.line_num}: {error}") from error


def _labelled(name: str, value: object) -> Item:
    item = Item(source_text(name), 0, WHOLE, 0)
    try:
        return labelled(item, label_fields(value))
    except ValueError as error:
        return replace(item, reason="bad_metadata", message=str(error))
