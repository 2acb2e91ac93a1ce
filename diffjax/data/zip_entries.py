"""Bounds on the sizes that an entry of a zip declares, checked before it is read."""

import zipfile

# Labels shrink by a factor of ten, and images and numbers hardly, unless they are all zeros.
_MAX_RATIO = 200
_SMALL_BYTES = 1 << 20


def check(
    info: zipfile.ZipInfo, *, limit: int, archive_bytes: int, harmless: int = _SMALL_BYTES
) -> None:
    """Check the sizes that an entry declares, which `zipfile` then keeps to.

    Args:
      info: the entry.
      limit: bytes that the entry may hold.
      archive_bytes: size of the zip.
      harmless: bytes that an entry may hold however few they shrink to.

    Raises:
      ValueError: with text that follows the entry's name in a sentence.
    """
    if info.file_size > limit:
        raise ValueError(f"is over {limit} bytes")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("is neither stored nor deflated")
    if info.compress_size > archive_bytes:
        raise ValueError(f"declares {info.compress_size} bytes in a zip of {archive_bytes}")
    if info.file_size > max(harmless, _MAX_RATIO * info.compress_size):
        raise ValueError(
            f"declares to hold {info.file_size} bytes in {info.compress_size}: a zip bomb"
        )
