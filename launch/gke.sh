#!/usr/bin/env bash
# Runs diffjax on Kubernetes as a JobSet, with GPUs or on a TPU slice of GKE.
#
#   IMAGE=gcr.io/my/diffjax CLAIM=my-claim ACCELERATOR=nvidia-h100-80gb NODES=2 DEVICES=8 \
#     launch/gke.sh --config=sid_cifar --workdir=/runs/sid_cifar [flags of diffjax.main]
#   IMAGE=... CLAIM=... ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 NODES=4 DEVICES=4 \
#     launch/gke.sh --config=sid_cifar --workdir=/runs/sid_cifar
#
# One pod a node, which drives its DEVICES. IMAGE is launch/Dockerfile's, with EXTRA=tpu for TPUs.
# CLAIM is a PersistentVolumeClaim that all nodes can write to, mounted at /runs. ACCELERATOR is the
# label of GKE's nodes, TOPOLOGY makes it a TPU slice. SPOT=yes asks for spot nodes. A pod that is
# taken away or fails starts all of them again, at most RESTARTS times, and they resume; pods have
# GRACE seconds to save. NAME is the JobSet's, PORT where pods meet. The cluster needs the JobSet controller
# (jobset.sigs.k8s.io). --dry_run prints the manifest, for `kubectl apply -f -`.
set -euo pipefail

: "${NAME:=diffjax}" "${NODES:=1}" "${DEVICES:=1}" "${TOPOLOGY:=}" "${SPOT:=}" "${RESTARTS:=100}"
: "${GRACE:=300}" "${PORT:=12355}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
: "${IMAGE:?is the container image}" "${CLAIM:?is the PersistentVolumeClaim for /runs}"
: "${ACCELERATOR:?is the kind of device, by the label of the nodes}"
for flag in --config --workdir; do
  needs "$flag" "launch/gke.sh --config=NAME --workdir=/runs/NAME [flags of diffjax.main]"
done
whole 1 NODES DEVICES PORT
whole 0 RESTARTS GRACE
yes_or_no SPOT
if [[ " ${arguments[*]} " != *" --workdir=/runs"[/\ ]* ]]; then
  echo "warning: the workdir isn't in /runs, which CLAIM keeps: it goes with the pods" >&2
fi
if [[ -n "$TOPOLOGY" ]] && ! [[ "$TOPOLOGY" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]]; then
  echo "error: TOPOLOGY=$TOPOLOGY: chips each way are needed, such as 4x4" >&2
  exit 2
fi
if [[ -n "$TOPOLOGY" ]]; then
  device=google.com/tpu
else
  device=nvidia.com/gpu
fi

# YAML takes a string of JSON, whose backslashes and quotes are escaped.
text() {
  local value="${1//\\/\\\\}"
  echo "\"${value//\"/\\\"}\""
}

manifest() {
  cat << EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(text "$NAME")
EOF
  if [[ -n "$TOPOLOGY" ]]; then # all pods on the nodes of one slice
    cat << EOF
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
EOF
  fi
  cat << EOF
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
  replicatedJobs:
  - name: hosts
    replicas: 1
    template:
      spec:
        parallelism: $NODES
        completions: $NODES
        completionMode: Indexed
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: $GRACE
            nodeSelector:
EOF
  if [[ -n "$TOPOLOGY" ]]; then
    cat << EOF
              cloud.google.com/gke-tpu-accelerator: $(text "$ACCELERATOR")
              cloud.google.com/gke-tpu-topology: $(text "$TOPOLOGY")
EOF
  else
    cat << EOF
              cloud.google.com/gke-accelerator: $(text "$ACCELERATOR")
EOF
  fi
  if [[ -n "$SPOT" ]]; then
    cat << EOF
              cloud.google.com/gke-spot: "true"
            tolerations:
            - key: cloud.google.com/gke-spot
              operator: Exists
EOF
  fi
  cat << EOF
            containers:
            - name: diffjax
              image: $(text "$IMAGE")
              args:
EOF
  for argument in "${arguments[@]}" --config.distributed=True; do
    echo "              - $(text "$argument")"
  done
  if [[ -z "$TOPOLOGY" ]]; then # on TPUs GKE's own variables tell JAX
    cat << EOF
              env:
              - name: JAX_COORDINATOR_ADDRESS
                value: $(text "$NAME-hosts-0-0.$NAME:$PORT")
              - name: JAX_NUM_PROCESSES
                value: "$NODES"
              - name: JAX_PROCESS_ID
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
EOF
  fi
  cat << EOF
              resources:
                limits:
                  $device: $DEVICES
              volumeMounts:
              - name: runs
                mountPath: /runs
              - name: memory
                mountPath: /dev/shm
            volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: $(text "$CLAIM")
            - name: memory
              emptyDir:
                medium: Memory
EOF
}

if [[ -n "$dry_run" ]]; then
  manifest
else
  manifest | kubectl apply -f -
fi
