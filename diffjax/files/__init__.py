"""Files: atomic writes, digests, restricted readers, downloads."""
