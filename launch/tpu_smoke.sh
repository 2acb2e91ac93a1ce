#!/usr/bin/env bash
# Proves in about five minutes that diffjax runs on this TPU VM, and writes down what to report.
#
#   launch/tpu_smoke.sh
#
# On one host with TPU chips, in a checkout. It installs diffjax and jax[tpu] into a virtual
# environment (VENV), looks at the devices, distils the digits for KIMG thousand images, stops that
# with SIGTERM and resumes, samples, and measures. REPORT (tpu_smoke.txt) gets versions, devices,
# seconds and rates: please paste it into an issue, above all where something fails, since diffjax
# was never run on a TPU by its authors. It ends with OK, or with what failed and exit code 1.
# PLATFORM=cpu tries the script itself without a TPU; PYTHON with INSTALL=no takes an environment that
# is there. --dry_run prints the commands.
set -euo pipefail

: "${PLATFORM:=tpu}" "${PYTHON:=python3}" "${INSTALL:=yes}" "${VENV:=$HOME/diffjax-venv}"
: "${KIMG:=25.6}" "${REPORT:=tpu_smoke.txt}"

start_folder="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
if [[ ${#arguments[@]} -gt 0 ]]; then
  echo "usage: launch/tpu_smoke.sh [--dry_run]; KIMG and other variables are at its top" >&2
  exit 2
fi
yes_or_no INSTALL
REPORT="$(cd "$start_folder" && realpath -m "$REPORT")"
export JAX_PLATFORMS="$PLATFORM"
workdir="$(mktemp -d)"
trap 'rm -rf "$workdir"' EXIT
log="$workdir/log.txt"
job=(--config=configs/sid_digits.py "--workdir=$workdir/run" "--config.duration_kimg=$KIMG"
  --config.evaluate.every_kimg=0)

# Sends SIGTERM as soon as the first update is reported.
stopped_half_way() {
  "$PYTHON" -m diffjax.main "${job[@]}" &
  local run=$! status=0
  while kill -0 "$run" 2> /dev/null && [[ ! -s "$workdir/run/metrics.jsonl" ]]; do
    sleep 0.2
  done
  kill -TERM "$run"
  wait "$run" || status=$?
  [[ "$status" -eq 0 && ! -d "$workdir/run/network" ]] || {
    echo "SIGTERM ended the run with exit code $status, or it was at its end already"
    return 1
  }
}

devices="
import jax, jax.numpy as jnp
jax.print_environment_info()
print(jax.devices())
x = jnp.ones((4096, 4096), jnp.bfloat16)
assert float(jax.jit(jnp.dot)(x, x)[0, 0]) == 4096.0
"

if [[ -z "$dry_run" ]]; then
  echo "diffjax $(git describe --always 2> /dev/null || true), $PLATFORM" > "$REPORT"
fi
if [[ "$INSTALL" == yes ]]; then
  step "environment" "$PYTHON" -m venv "$VENV"
  PYTHON="$VENV/bin/python"
  if [[ "$PLATFORM" == tpu ]]; then
    step "install" "$PYTHON" -m pip install --quiet '.[tpu]'
  else
    step "install" "$PYTHON" -m pip install --quiet .
  fi
fi
step "devices" "$PYTHON" -c "$devices"
if [[ -z "$dry_run" ]]; then
  cat "$log" >> "$REPORT"
fi
step "stop" stopped_half_way
step "resume" "$PYTHON" -m diffjax.main "${job[@]}"
if [[ -z "$dry_run" ]]; then
  tail -n 2 "$workdir/run/metrics.jsonl" "$workdir/run/timing.jsonl" >> "$REPORT"
fi
step "sample" "$PYTHON" -m diffjax.main "${job[@]}" --mode=sample --config.sample.count=100
step "evaluate" "$PYTHON" -m diffjax.main "${job[@]}" --mode=evaluate
if [[ -z "$dry_run" ]]; then
  tail -n 5 "$log" >> "$REPORT"
  echo "OK. Please paste $REPORT into an issue." | tee -a "$REPORT"
fi
