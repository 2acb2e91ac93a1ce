#!/usr/bin/env bash
# Runs diffjax on a list of hosts that ssh reaches: one process a host, which drives all its GPUs.
#
#   HOSTS="node1 node2" launch/hosts.sh \
#     --config=configs/sid_imagenet64.py --workdir=/mnt/store/sid_imagenet64 [flags of diffjax.main]
#
# Every host needs this checkout at the same path, with diffjax installed for PYTHON, and must see
# the workdir and, at PORT (12355), the first host. Each line of output starts with its host. The
# exit code is 0 only if all processes ended well; the same command resumes. --dry_run prints the
# commands.
set -euo pipefail

: "${PORT:=12355}" "${PYTHON:=python}"

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=launch/common.sh
source "$checkout/launch/common.sh"
begin "$@"
: "${HOSTS:?is the list of hosts, the first of them leading}"
for flag in --config --workdir; do
  needs "$flag" "HOSTS='A B' launch/hosts.sh --config=configs/NAME.py --workdir=PATH_ON_ALL_HOSTS"
done
whole 1 PORT
read -ra hosts <<< "$HOSTS"
twice="$(printf '%s\n' "${hosts[@]}" | sort | uniq -d | head -n 1)"
if [[ -n "$twice" ]]; then
  echo "error: HOSTS names $twice twice: one process drives all devices of a host" >&2
  exit 2
fi

run() { # INDEX
  local host="${hosts[$1]}"
  # A terminal on the other side, whose closing ends the process there when ssh here is ended.
  call ssh -tt "$host" "
    cd $(printf '%q' "$checkout") &&
    JAX_COORDINATOR_ADDRESS=${hosts[0]#*@}:$PORT JAX_NUM_PROCESSES=${#hosts[@]} \
    JAX_PROCESS_ID=$1 $PYTHON -m diffjax.main \
    $(printf '%q ' "${arguments[@]}")--config.distributed=True" \
    < /dev/null 2>&1 | sed -u "s|^|$host: |"
}

processes=()
for index in "${!hosts[@]}"; do
  run "$index" &
  processes+=($!)
done
status=0
for process in "${processes[@]}"; do
  wait "$process" || status=1
done
exit "$status"
