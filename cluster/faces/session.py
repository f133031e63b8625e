"""Opens onnxruntime sessions: threads, provider, and the repair of graphs that list weights as inputs.

Owns what is common to detectors and embedders; must not know what goes in or comes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cluster.faces.extras import require_onnxruntime
from cluster.faces.onnx_graph import repaired
from shard.errors import InvalidParameter, ModelFileCorrupt

Device = Literal["cpu", "cuda"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_LOG_ERRORS_ONLY = 3


def open_session(path: Path, *, input_name: str | None, threads: int, device: Device) -> Any:
    """An onnxruntime.InferenceSession of the file.

    input_name: the network's one true input where the graph may list others. threads: intra-op, 0 for all cores.
    Raises ModelFileCorrupt where onnxruntime refuses the file, InvalidParameter where the device is not there.
    """
    ort = require_onnxruntime()
    require_device(device)
    if device == "cuda" and hasattr(ort, "preload_dlls"):
        # CUDA and cuDNN may be Python packages, where the loader would not look. What is not there is the system's.
        ort.preload_dlls()
    provider = _PROVIDERS[device]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would spin between calls, on cores that others need to find faces: a third of a photo's CPU time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _LOG_ERRORS_ONLY
    try:
        model = repaired(path.read_bytes(), input_name)
        session = ort.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # onnxruntime's errors share no narrower base
        raise ModelFileCorrupt(f"{path}: onnxruntime cannot load it: {error}") from error
    if provider not in session.get_providers():  # it goes on with the CPU by itself where CUDA does not start
        raise InvalidParameter(
            f"device {device!r}: expected {provider}, onnxruntime started {', '.join(session.get_providers())}; "
            "is the driver there, and the CUDA and cuDNN that this onnxruntime-gpu needs?"
        )
    return session


def require_device(device: Device) -> None:
    """InvalidParameter if this onnxruntime was not built for the device. MissingExtra without onnxruntime."""
    if device not in available_devices():
        raise InvalidParameter(
            f"expected a device of this onnxruntime ({', '.join(available_devices())}), got {device!r}; "
            "CUDA needs the package onnxruntime-gpu"
        )


def available_devices() -> tuple[Device, ...]:
    """The devices that this onnxruntime can use, `cpu` first. Raises MissingExtra without onnxruntime."""
    there = require_onnxruntime().get_available_providers()
    devices: tuple[Device, ...] = ("cpu", "cuda")
    return tuple(device for device in devices if _PROVIDERS[device] in there)
