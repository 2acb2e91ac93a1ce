#!/usr/bin/env bash
# Runs diffjax on a list of hosts that ssh reaches: one process a host, which drives all its GPUs.
#
#   HOSTS="node1 node2" launch/hosts.sh \
#     --config=configs/sid_imagenet64.py --workdir=/mnt/store/sid_imagenet64 [flags of diffjax.main]
#
# Every host needs this checkout at the same path, with diffjax installed for PYTHON, and must see
# the workdir and, at PORT (12355), the first host. Each line of output starts with its host. The
# exit code is 0 only if all processes ended well; the same command resumes.
set -euo pipefail

: "${HOSTS:?is the list of hosts, the first of them leading}"
if [[ " $*" != *" --config="* || " $*" != *" --workdir="* ]]; then
  echo "usage: HOSTS='A B' launch/hosts.sh --config=configs/NAME.py --workdir=PATH_ON_ALL_HOSTS" >&2
  exit 2
fi
read -ra hosts <<< "$HOSTS"
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

run() { # INDEX FLAGS...
  local index="$1" host="${hosts[$1]}"
  shift
  # A terminal on the other side, whose closing ends the process there when ssh here is ended.
  ssh -tt "$host" "
    cd $(printf '%q' "$checkout") &&
    JAX_COORDINATOR_ADDRESS=${hosts[0]#*@}:${PORT:-12355} JAX_NUM_PROCESSES=${#hosts[@]} \
    JAX_PROCESS_ID=$index ${PYTHON:-python} -m diffjax.main $(printf '%q ' "$@")" \
    < /dev/null 2>&1 | sed -u "s|^|$host: |"
}

processes=()
for index in "${!hosts[@]}"; do
  run "$index" "$@" --config.distributed=True &
  processes+=($!)
done
status=0
for process in "${processes[@]}"; do
  wait "$process" || status=1
done
exit "$status"
