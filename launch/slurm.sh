#!/usr/bin/env bash
# Runs diffjax under SLURM: one process a node, which drives all GPUs of it.
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh \
#     --config=configs/sid_imagenet64.py --workdir=/mnt/store/sid_imagenet64 [flags of diffjax.main]
#
# Submit it from the checkout, which all nodes see as they do the workdir; flags of sbatch come before
# the script. A job that is preempted, whose node fails or whose time ends saves, is queued again, and
# resumes. One that is done, or that fails by itself, is not. Five minutes before its end SLURM asks
# for the save. PYTHON is the interpreter, SETUP a command that each node runs first, such as
# SETUP="module load cuda". `launch/slurm.sh --dry_run ...`, without sbatch, prints the command.
#SBATCH --job-name=diffjax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=diffjax-%j.txt
set -euo pipefail

: "${PYTHON:=python}" "${SETUP:=true}"

# SLURM runs a copy of this file, elsewhere.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
for flag in --config --workdir; do
  needs "$flag" "sbatch launch/slurm.sh --config=configs/NAME.py --workdir=PATH_ON_ALL_NODES [flags]"
done
if [[ -z "${SLURM_JOB_ID:-}" && -z "$dry_run" ]]; then
  echo "this is for sbatch: sbatch launch/slurm.sh ${arguments[*]}" >&2
  exit 2
fi

# JAX finds the processes by what SLURM says of them.
node="$SETUP && exec launch/stoppable.sh $PYTHON -m diffjax.main $(printf '%q ' "${arguments[@]}")"
node+="--config.distributed=True"
if [[ -n "$dry_run" ]]; then
  call srun --kill-on-bad-exit=0 bash -c "$node"
  exit 0
fi

srun --kill-on-bad-exit=0 bash -c "$node" &
step=$!
# USR1 comes before the time ends, TERM where SLURM takes the nodes for another job.
trap 'scancel --signal=TERM "$SLURM_JOB_ID.0" || true' USR1 TERM
status=0
wait "$step" || status=$?
while kill -0 "$step" 2> /dev/null; do # a trap ends `wait`
  status=0
  wait "$step" || status=$?
done
if [[ "$status" -eq 75 ]]; then # the highest of all processes
  echo "stopped before its end: queued again"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$status"
