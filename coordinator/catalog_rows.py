"""What the catalog's tables hold, as the dataclasses of `coordinator.types`, and back. Decides nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from coordinator.catalog_tables import GALLERIES, IN_SYNC, JOINING, METADATA, MODELS, REPLICAS, SHARDS
from coordinator.types import GalleryRoute, ShardConfig
from shard.errors import CorruptData, InvalidParameter

_CONFIGS = sa.select(SHARDS, REPLICAS.c.host, REPLICAS.c.state).select_from(SHARDS.join(GALLERIES).outerjoin(REPLICAS))


def placed(gallery_id: str, shard: int, hosts: Sequence[str]) -> ShardConfig:
    """The first configuration of a shard on these hosts, all in sync; InvalidParameter if there are none."""
    if isinstance(hosts, str) or not hosts:
        raise InvalidParameter(f"placement: shard {shard}: expected the names of its hosts, got {hosts!r}")
    return ShardConfig(gallery_id, shard, epoch=1, primary=hosts[0], in_sync=tuple(hosts), joining=())


def checked(config: ShardConfig) -> ShardConfig:
    """The configuration with its hosts in order; InvalidParameter for a primary not in sync or a host named twice."""
    where = f"shard {config.shard} of {config.gallery_id}"
    hosts = (*config.in_sync, *config.joining)
    if config.primary not in config.in_sync:
        raise InvalidParameter(f"{where}: expected its primary in sync; {config.primary!r} is not in {config.in_sync}")
    if len(set(hosts)) != len(hosts):
        raise InvalidParameter(
            f"{where}: expected each host once, in sync or joining; got {config.in_sync} and {config.joining}"
        )
    return replace(config, in_sync=_in_order(config.primary, config.in_sync), joining=tuple(sorted(config.joining)))


def _in_order(primary: str, in_sync: Iterable[str]) -> tuple[str, ...]:
    return (primary, *sorted(set(in_sync) - {primary}))


def replica_rows(config: ShardConfig) -> list[dict[str, object]]:
    """Rows of the table REPLICAS."""
    hosts = [(host, IN_SYNC) for host in config.in_sync] + [(host, JOINING) for host in config.joining]
    return [
        {"gallery_id": config.gallery_id, "shard": config.shard, "host": host, "state": state} for host, state in hosts
    ]


def configs(db: Connection, where: str, *conditions: sa.ColumnElement[bool]) -> list[ShardConfig]:
    """Configurations of the shards that meet conditions on SHARDS and GALLERIES, by gallery id and number.

    where: the database, for CorruptData: a primary that is no replica in sync.
    """
    rows = sorted(db.execute(_CONFIGS.where(*conditions)).all(), key=lambda row: (row.gallery_id, row.shard))
    groups = itertools.groupby(rows, key=lambda row: (row.gallery_id, row.shard))
    return [_config(list(group), where) for _, group in groups]


def _config(rows: Sequence[Row[Any]], where: str) -> ShardConfig:
    """rows: one for each replica."""
    first = rows[0]
    in_sync = [row.host for row in rows if row.state == IN_SYNC]
    if first.primary not in in_sync:
        raise CorruptData(f"{where}: the primary of shard {first.shard} of {first.gallery_id} is no replica in sync")
    joining = sorted(row.host for row in rows if row.state == JOINING)
    return ShardConfig(
        gallery_id=first.gallery_id,
        shard=first.shard,
        epoch=first.epoch,
        primary=first.primary,
        in_sync=_in_order(first.primary, in_sync),
        joining=tuple(joining),
    )


def routes(db: Connection, where: str, *conditions: sa.ColumnElement[bool]) -> list[GalleryRoute]:
    """Galleries that meet conditions on GALLERIES, by name; CorruptData as `configs`, or for missing shards."""
    return [route for route, _ in whole_galleries(db, where, *conditions)]


def whole_galleries(
    db: Connection, where: str, *conditions: sa.ColumnElement[bool]
) -> list[tuple[GalleryRoute, list[ShardConfig]]]:
    """As `routes`, each with the configurations of its shards."""
    shards: dict[str, list[ShardConfig]] = {}
    for config in configs(db, where, *conditions):
        shards.setdefault(config.gallery_id, []).append(config)
    rows = sorted(db.execute(GALLERIES.select().where(*conditions)).all(), key=lambda row: str(row.name))
    found = [(row, shards.get(row.gallery_id, [])) for row in rows]
    return [(_route(row, own, where), own) for row, own in found]


def _route(row: Row[Any], shards: Sequence[ShardConfig], where: str) -> GalleryRoute:
    numbers = [config.shard for config in shards]
    if not numbers or numbers != list(range(len(numbers))):
        raise CorruptData(f"{where}: gallery {row.name} has shards {numbers}; expected all from 0 on")
    return GalleryRoute(
        gallery_id=row.gallery_id,
        name=row.name,
        dim=row.dim,
        code_bits=row.code_bits,
        embedder=row.embedder,
        in_sync=tuple(config.in_sync for config in shards),
        epochs=tuple(config.epoch for config in shards),
        model_id=row.model_id,
        version=row.version,
        replicas=row.replicas,
        min_in_sync=row.min_in_sync,
    )


def insert_new(db: Connection, table: sa.Table, rows: Sequence[Mapping[str, object]], key: str | None = None) -> bool:
    """Insert rows unless their key, the primary one if not named, is there; whether the last of them was inserted."""
    names = [column.name for column in table.primary_key] if key is None else [key]
    is_new = False
    for row in rows:
        insert = (postgresql if db.dialect.name == "postgresql" else sqlite).insert(table).values(**row)
        statement = insert.on_conflict_do_nothing(index_elements=names)
        is_new = db.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1
    return is_new


def remove_unused_models(db: Connection) -> None:
    """Remove models that no gallery, rollout or other table refers to; what goes with a model does not count."""
    references = [
        sa.select(key.parent).where(key.parent.is_not(None))
        for table in METADATA.sorted_tables
        for key in table.foreign_keys
        if key.column is MODELS.c.model_id and key.ondelete != "CASCADE"
    ]
    db.execute(MODELS.delete().where(MODELS.c.model_id.not_in(sa.union(*references))))
