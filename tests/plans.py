"""How SQLite carries out what is asked of a catalog: by an index, or by reading a table from end to end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from coordinator.catalog import Catalog


@contextlib.contextmanager
def explained(catalog: Catalog, plans: list[str]) -> Iterator[None]:
    """Meanwhile, SQLite's plan of every SELECT is added to `plans`."""

    def explain(db: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if statement.startswith("SELECT"):
            rows = db.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append("\n".join(row[3] for row in rows))

    engine = catalog._database._engine
    sa.event.listen(engine, "before_cursor_execute", explain)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", explain)
