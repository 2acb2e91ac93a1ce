"""Files: atomic writes, digests, kinds of files, restricted readers, downloads."""
