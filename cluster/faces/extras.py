"""The two optional dependencies of the face pipeline, imported on first use so that `import cluster` never needs them.

Owns the imports of onnxruntime and cv2; must not know what they are used for.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from shard.errors import MissingExtra


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"the face pipeline needs `{module}`, which cannot be imported ({error}); install it with "
            "`pip install 'facegrid[faces]'`"
        ) from error


def require_cv2() -> ModuleType:
    """OpenCV. Raises MissingExtra where it is not installed."""
    return _require("cv2")


def require_onnxruntime() -> ModuleType:
    """ONNX Runtime, told to report to nobody. Raises MissingExtra where it is not installed."""
    # From 1.29 on its wheels for Linux send events to their maker by default, the first while they are imported.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return _require("onnxruntime")
