"""Rendered manifests as the pods that a cluster would make of them, and those pods as containers of podman.

Every module here is a function of its input: nothing is started, no file is read. A field that is not translated is an
error (`Untranslatable`), unless `fields.py` lists it among those that this machine cannot exercise.
"""
