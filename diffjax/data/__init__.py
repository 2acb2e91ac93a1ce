"""Real images by name: EDM's zips, folders, prepared TFDS data sets, and the digits.

Every source gives image i and its class, decoded when asked for and never all at once; `loader`
makes a shuffled, sharded and resumable stream of batches of it. Teachers are trained on such
sources and reference statistics are computed from them. Distillation reads none.
"""

from diffjax.data.loader import Batch, in_order, shuffled
from diffjax.data.opening import content, load_all, open_laws, open_source, verify
from diffjax.data.source import DataSource

__all__ = [
    "Batch",
    "DataSource",
    "content",
    "in_order",
    "load_all",
    "open_laws",
    "open_source",
    "shuffled",
    "verify",
]
