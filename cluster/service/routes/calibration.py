"""Error rates of a gallery, measured on its own labelled faces, and thresholds for a false alarm rate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cluster.error_rates_svg import error_rates_svg
from cluster.service import schemas
from cluster.service.calls import Asked, Call
from cluster.service.operations import operation
from cluster.service.routes.galleries import ONE
from shard.errors import NotEnoughData

router = APIRouter(prefix=f"/v1/galleries{ONE}/calibration")
