#!/usr/bin/env bash
# Runs diffjax on one host, where a single process drives all GPUs.
#
#   launch/gpu_host.sh --config=configs/sid_cifar.py [--workdir=W] [--mode=...] [--config.KEY=VALUE]
#
# All arguments go to `python -m diffjax.main`; paths are relative to the repository. The same
# command resumes a run. CUDA_VISIBLE_DEVICES picks GPUs, PYTHON another interpreter, and
# JAX_PLATFORMS another kind of device: without a GPU, JAX stops instead of going on on the CPU.
# XLA_FLAGS gets --xla_gpu_autotune_level=2 unless it names a level: XLA then times the kernels that
# it tries and doesn't check them for wrong results and stray writes (4, its default, does), and
# compiling takes two thirds of the time. --dry_run prints the command.
set -euo pipefail

: "${PYTHON:=python}" "${JAX_PLATFORMS:=cuda}" "${XLA_FLAGS:=}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
if [[ ${#arguments[@]} -eq 0 ]]; then
  echo "usage: launch/gpu_host.sh --config=configs/NAME.py [flags of diffjax.main]" >&2
  exit 2
fi
if [[ "$XLA_FLAGS" != *xla_gpu_autotune_level* ]]; then
  XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_gpu_autotune_level=2"
fi
call exec env JAX_PLATFORMS="$JAX_PLATFORMS" XLA_FLAGS="$XLA_FLAGS" \
  "$PYTHON" -m diffjax.main "${arguments[@]}"
