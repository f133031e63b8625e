"""Faces: from image bytes to embeddings. The only place where OpenCV and onnxruntime are imported, and only on use.

Importing this package needs neither; opening a pipeline without them raises MissingExtra.
"""

from __future__ import annotations

from cluster.faces.batches import FaceBatches
from cluster.faces.decode import ImageArray, ImageLimits, ImageSource, decode_image, naming, read_image
from cluster.faces.model_files import Announce, ModelPlaces, Progress, locate, pull
from cluster.faces.phash import phash
from cluster.faces.photos import Photo, walk_photos
from cluster.faces.pipeline import Face, FacePipeline, FoundFaces, ImageFaces, PipelineOptions, Select, select_face
from cluster.faces.quality import Quality, QualityGate, Refusal
from cluster.faces.registry import DEFAULT_DETECTOR, DEFAULT_EMBEDDER, ModelFile, ModelSpec, list_models, model_spec
from cluster.faces.session import Device, require_device
from cluster.faces.thumbnail import thumbnail

__all__ = [
    "DEFAULT_DETECTOR",
    "DEFAULT_EMBEDDER",
    "Announce",
    "Device",
    "Face",
    "FaceBatches",
    "FacePipeline",
    "FoundFaces",
    "ImageArray",
    "ImageFaces",
    "ImageLimits",
    "ImageSource",
    "ModelFile",
    "ModelPlaces",
    "ModelSpec",
    "Photo",
    "PipelineOptions",
    "Progress",
    "Quality",
    "QualityGate",
    "Refusal",
    "Select",
    "decode_image",
    "list_models",
    "locate",
    "model_spec",
    "naming",
    "phash",
    "pull",
    "read_image",
    "require_device",
    "select_face",
    "thumbnail",
    "walk_photos",
]
