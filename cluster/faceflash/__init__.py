"""`FaceFlash`: the class of the package faceflash, on an embedded Facegrid gallery.

    from cluster.faceflash import FaceFlash        # instead of: from faceflash import FaceFlash

Same methods, defaults and results as faceflash 0.1.1; `docs/compatibility.md` lists where they differ on purpose. The
gallery lives in a private temporary directory until `save`, which writes FaceFlash's own directory format: either
package loads what the other saved. Networks, and everything else that FaceFlash does not have, come from FACEGRID_
settings. Like FaceFlash it is for one thread.
"""

from __future__ import annotations

from cluster.faceflash.engine import FaceFlash

__all__ = ["FaceFlash"]
