#!/usr/bin/env bash
# Runs diffjax in several processes on this machine, as several hosts would.
#
#   PROCESSES=2 launch/local.sh --config=configs/sid_digits.py [--workdir=W] [flags of diffjax.main]
#
# For trying what many hosts do. They compute on the CPU, or with GPUS_EACH=1 on that many GPUs each.
# PORT is where they meet, a free one by default. Each line of output starts with its process. Ctrl-C
# and SIGTERM reach all. The exit code is 0 only if all ended well. PYTHON is the interpreter. --dry_run
# prints the commands.
set -euo pipefail

: "${PROCESSES:=2}" "${GPUS_EACH:=0}" "${PORT:=}" "${PYTHON:=python}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
needs --config "PROCESSES=2 launch/local.sh --config=configs/NAME.py [flags of diffjax.main]"
whole 1 PROCESSES
whole 0 GPUS_EACH
[[ -z "$PORT" ]] || whole 1 PORT
if [[ -z "$PORT" && -z "$dry_run" ]]; then
  PORT="$("$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')"
fi

processes=()
trap 'kill -TERM "${processes[@]}" 2> /dev/null || true' TERM
for ((index = 0; index < PROCESSES; index++)); do
  variables=(
    "JAX_COORDINATOR_ADDRESS=127.0.0.1:${PORT:-PORT}" "JAX_NUM_PROCESSES=$PROCESSES"
    "JAX_PROCESS_ID=$index"
  )
  if [[ "$GPUS_EACH" -gt 0 ]]; then
    first=$((index * GPUS_EACH))
    gpus="$(seq -s, "$first" $((first + GPUS_EACH - 1)))"
    variables+=("JAX_PLATFORMS=cuda" "CUDA_VISIBLE_DEVICES=$gpus")
  else
    variables+=("JAX_PLATFORMS=cpu")
  fi
  command=(env "${variables[@]}" "$PYTHON" -m diffjax.main "${arguments[@]}" --config.distributed=True)
  if [[ -n "$dry_run" ]]; then
    call "${command[@]}"
    continue
  fi
  "${command[@]}" > >(sed -u "s|^|$index: |") 2>&1 &
  processes+=($!)
done
status=0
for process in "${processes[@]}"; do
  while kill -0 "$process" 2> /dev/null; do # a trap ends `wait`
    wait "$process" || true
  done
  wait "$process" || status=1
done
exit "$status"
