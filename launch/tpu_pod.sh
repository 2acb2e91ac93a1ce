#!/usr/bin/env bash
# Runs diffjax on a Cloud TPU slice of any size: the same command on every host.
#
#   TPU_NAME=my-slice ZONE=us-central2-b launch/tpu_pod.sh \
#     --config=configs/sid_imagenet64.py --workdir=/mnt/store/sid_imagenet64 [flags of diffjax.main]
#
# Sends the last commit to every host, installs it into a virtual environment there, and runs
# `python -m diffjax.main` with all arguments. The workdir must be a path that all hosts see, such
# as a Filestore or Cloud Storage FUSE mount. PYTHON names the hosts' interpreter, 3.11 or newer.
# The same command resumes a run. If it is stopped here, the hosts go on.
set -euo pipefail

: "${TPU_NAME:?is the name of the TPU VM}" "${ZONE:?is the zone of the TPU VM}"
if [[ " $*" != *" --config="* || " $*" != *" --workdir="* ]]; then
  echo "usage: launch/tpu_pod.sh --config=configs/NAME.py --workdir=PATH_ON_ALL_HOSTS [flags]" >&2
  exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

archive="$(mktemp --suffix=.tar.gz)"
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:diffjax.tar.gz" --zone="$ZONE" --worker=all

gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="
set -euo pipefail
rm -rf diffjax-checkout && mkdir diffjax-checkout
tar -xzf diffjax.tar.gz -C diffjax-checkout
cd diffjax-checkout
'${PYTHON:-python3}' -m venv ../diffjax-venv
../diffjax-venv/bin/python -m pip install --quiet 'jax[tpu]' .
../diffjax-venv/bin/python -m diffjax.main $(printf '%q ' "$@")--config.distributed=True
"
