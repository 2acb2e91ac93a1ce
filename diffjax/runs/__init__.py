"""Runs: a work directory, the config that made it, and the modes of the command line."""
