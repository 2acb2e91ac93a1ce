"""Command that computes statistics of images: see `diffjax.evaluation.image_statistics`."""

import sys

from diffjax.evaluation.image_statistics import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
