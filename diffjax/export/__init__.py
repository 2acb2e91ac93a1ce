"""Networks of runs as files for other programs: `python -m diffjax.export`."""
