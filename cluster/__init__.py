"""What a user touches: `Cluster` and its galleries, the face pipeline, the command line.

from cluster import Cluster
"""

from cluster.api import Cluster
from cluster.gallery import Gallery
from shard.errors import FacegridError

__all__ = ["Cluster", "FacegridError", "Gallery"]
