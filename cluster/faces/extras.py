"""The two optional dependencies of the face pipeline, imported on first use so that `import cluster` never needs them.

Owns the imports of onnxruntime and cv2; must not know what they are used for.
"""

from __future__ import annotations

import importlib
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
    """ONNX Runtime. Raises MissingExtra where it is not installed."""
    return _require("onnxruntime")
