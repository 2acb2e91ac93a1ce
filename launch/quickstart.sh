#!/usr/bin/env bash
# Takes a newcomer's path from an empty virtual environment, and times each step: minutes on a CPU.
#
#   launch/quickstart.sh
#
# In a checkout. It installs diffjax into a virtual environment, checks the default job, distils the
# digits, writes the report, exports the student, and samples it in a second environment, which has
# jax and flatbuffers and nothing else. All of it is in FOLDER (quickstart), which must be new: the
# environments, the run, the export, and `times.txt`, a line a step. It ends with OK, or with what
# failed and exit code 1. PYTHON makes the environments. --dry_run prints the commands.
set -euo pipefail

: "${FOLDER:=quickstart}" "${PYTHON:=python3}"

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
source "$checkout/launch/common.sh"
begin "$@"
if [[ ${#arguments[@]} -gt 0 ]]; then
  echo "usage: launch/quickstart.sh [--dry_run]; FOLDER and PYTHON are variables" >&2
  exit 2
fi
FOLDER="$(realpath -m "$FOLDER")"
if [[ -e "$FOLDER" ]]; then
  echo "error: $FOLDER is there already: name a new folder with FOLDER" >&2
  exit 2
fi
REPORT="$FOLDER/times.txt"
log="$FOLDER/log.txt"

sample="
import importlib.util, pathlib, sys
import jax, numpy as np
from jax import export

assert importlib.util.find_spec('diffjax') is None, 'this environment has diffjax'
student = export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
z = jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
samples = np.asarray(student.call(z, np.arange(16, dtype=np.int32) % 10))
print(samples.shape, samples.dtype, 'from', samples.min(), 'to', samples.max())
assert samples.shape == (16, 8, 8, 1) and np.abs(samples).max() < 2
"

if [[ -z "$dry_run" ]]; then
  mkdir -p "$FOLDER"
  cd "$FOLDER" # so that nothing is found in the checkout
fi
step "environment" "$PYTHON" -m venv "$FOLDER/venv"
step "install" "$FOLDER/venv/bin/pip" install --quiet "$checkout"
step "check" "$FOLDER/venv/bin/diffjax" --config=sid_digits --mode=check
step "distil" "$FOLDER/venv/bin/diffjax" --config=sid_digits
step "report" "$FOLDER/venv/bin/diffjax" --workdir=runs/sid_digits --mode=report
step "export" "$FOLDER/venv/bin/python" -m diffjax.export --source=runs/sid_digits \
  --format=stablehlo --output=student.stablehlo
step "jax alone" "$PYTHON" -m venv "$FOLDER/jax_alone"
step "install jax" "$FOLDER/jax_alone/bin/pip" install --quiet jax flatbuffers
step "sample" "$FOLDER/jax_alone/bin/python" -c "$sample" student.stablehlo
if [[ -z "$dry_run" ]]; then
  cat "$log"
  echo "OK: $REPORT has the seconds, and here are the digits:"
  echo "$FOLDER/runs/sid_digits/samples/comparison_000064.png"
fi
