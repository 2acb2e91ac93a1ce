#!/usr/bin/env bash
# Runs diffjax on a Cloud TPU VM or slice of any size: the same command on every host.
#
#   TPU_NAME=my-slice ZONE=us-central2-b launch/tpu_pod.sh \
#     --config=configs/sid_imagenet64.py --workdir=/mnt/store/sid_imagenet64 [flags of diffjax.main]
#
# Sends the last commit to every host, installs it into a virtual environment there, and runs
# `python -m diffjax.main` with all arguments. The workdir must be a path that all hosts see, such
# as a Filestore or Cloud Storage FUSE mount; MOUNT is a command that each host runs first, such as
# MOUNT="gcsfuse my-bucket /mnt/store". PYTHON names the hosts' interpreter, 3.11 or newer.
# The same command resumes a run. If it is stopped here, the hosts go on.
#
# With ACCELERATOR the slice is asked for, and run on until the run is done: a queued resource named
# TPU_NAME is made, waited for, and made anew when the slice was taken away (at most RESTARTS times).
#
#   ACCELERATOR=v5litepod-16 SPOT=yes TPU_NAME=my-slice ZONE=us-central2-b launch/tpu_pod.sh ...
#
# RUNTIME is its software (v2-alpha-tpuv5-lite), PROJECT gcloud's project, POLL the seconds between
# two looks (30). The slice stays when the run is done, and costs: delete it. --dry_run prints the
# commands, once each.
set -euo pipefail

: "${PYTHON:=python3}" "${MOUNT:=}" "${PROJECT:=}"
: "${ACCELERATOR:=}" "${RUNTIME:=v2-alpha-tpuv5-lite}" "${SPOT:=}" "${RESTARTS:=100}" "${POLL:=30}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
: "${TPU_NAME:?is the name of the TPU VM}" "${ZONE:?is the zone of the TPU VM}"
for flag in --config --workdir; do
  needs "$flag" "launch/tpu_pod.sh --config=configs/NAME.py --workdir=PATH_ON_ALL_HOSTS [flags]"
done
yes_or_no SPOT
whole 0 RESTARTS POLL
where=("--zone=$ZONE")
if [[ -n "$PROJECT" ]]; then
  where+=("--project=$PROJECT")
fi
queued=(gcloud compute tpus queued-resources)

on_hosts() { # COMMAND
  call gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all --command="$1"
}

run() {
  call gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:diffjax.tar.gz" "${where[@]}" \
    --worker=all || return
  on_hosts "
set -euo pipefail
${MOUNT:-true}
rm -rf diffjax-checkout && mkdir diffjax-checkout
tar -xzf diffjax.tar.gz -C diffjax-checkout
cd diffjax-checkout
'$PYTHON' -m venv ../diffjax-venv
../diffjax-venv/bin/python -m pip install --quiet 'jax[tpu]' .
launch/stoppable.sh ../diffjax-venv/bin/python -m diffjax.main $(printf '%q ' "${arguments[@]}")\
--config.distributed=True
"
}

state() {
  "${queued[@]}" describe "$TPU_NAME" "${where[@]}" --format='value(state.state)' 2> /dev/null ||
    echo NONE
}

# Returns once the slice is there, asking for it where there is none.
await_slice() {
  while true; do
    local now
    now="$(state)"
    case "$now" in
      ACTIVE) return ;;
      NONE)
        echo "asking for $ACCELERATOR" >&2
        "${queued[@]}" create "$TPU_NAME" --node-id="$TPU_NAME" "${where[@]}" \
          --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${SPOT:+--spot}
        ;;
      SUSPENDED | FAILED)
        echo "the slice is $now: asking for another" >&2
        "${queued[@]}" delete "$TPU_NAME" "${where[@]}" --force --quiet
        ;;
    esac
    sleep "$POLL"
  done
}

archive="$(mktemp --suffix=.tar.gz)"
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD

if [[ -n "$dry_run" ]]; then
  if [[ -n "$ACCELERATOR" ]]; then
    call "${queued[@]}" create "$TPU_NAME" --node-id="$TPU_NAME" "${where[@]}" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${SPOT:+--spot}
    call "${queued[@]}" describe "$TPU_NAME" "${where[@]}" "--format=value(state.state)"
  fi
  run
  exit 0
fi
if [[ -z "$ACCELERATOR" ]]; then
  run
  exit
fi
for ((restart = 0; restart <= RESTARTS; restart++)); do
  await_slice
  status=0
  run || status=$?
  if [[ "$status" -eq 0 ]]; then
    exit 0
  fi
  sleep "$POLL" # what takes a slice away shows in its state a little later
  if [[ "$(state)" == ACTIVE && "$status" -ne 75 ]]; then
    echo "the run ended with exit code $status on a slice that is there: it is the run's own" >&2
    exit 1
  fi
done
echo "given up after RESTARTS=$RESTARTS" >&2
exit 1
