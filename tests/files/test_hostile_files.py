"""No file that comes from outside runs code, hangs, fills memory or fails with a riddle.

DIFFJAX_TEST_MUTATIONS=10000 python -m pytest tests/test_hostile_files.py reads as many of each
kind; without it a few hundred are read.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.support import hostile
from tests.support.processes import ROOT

COUNT = int(os.environ.get("DIFFJAX_TEST_MUTATIONS", "300"))


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_mutated_files_read_or_are_refused_in_one_line(kind, record_property):
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile", kind, str(COUNT)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ends = json.loads(result.stdout)
    record_property("ends", ends)
    print(kind, ends)
    assert ends["read"] + ends["refused"] == COUNT
    assert ends["refused"] > COUNT / 3  # the rest was changed in weights or pixels
    assert ends["grown_mib"] < 512
