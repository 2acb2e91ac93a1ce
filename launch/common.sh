#!/usr/bin/env bash
# Sourced by the other scripts: --help, --dry_run, and commands that are run, timed or only printed.
set -euo pipefail

# begin ARGUMENTS... leaves in `arguments` those that are for diffjax, and sets `dry_run`. A work
# directory that is a URL ends the script, before hosts are asked for, since diffjax takes none.
begin() {
  arguments=()
  dry_run=""
  local argument before=""
  for argument; do
    if [[ "$argument" =~ ^(--?workdir=)?[A-Za-z][A-Za-z0-9+.-]+:/ && "$before$argument" == *-workdir* ]]; then
      echo "error: --workdir=${argument#*workdir=} is a URL: mount the store, and name the mounted path" >&2
      exit 2
    fi
    before="$argument"
    case "$argument" in
      --help) # the comment at the top of the script
        sed -n -e '1d' -e '/^#SBATCH/q' -e '/^#/!q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[1]}"
        exit 0
        ;;
      --dry_run) dry_run=yes ;;
      *) arguments+=("$argument") ;;
    esac
  done
}

# call COMMAND... runs it, or prints it as one would type it.
call() {
  if [[ -z "$dry_run" ]]; then
    "$@"
  else
    local line
    line="$(printf '%q ' "$@")"
    echo "${line% }"
  fi
}

# needs FLAG USAGE: ends the script with its usage unless diffjax is given that flag.
needs() {
  if [[ " ${arguments[*]-}" != *" $1="* ]]; then
    echo "usage: $2" >&2
    exit 2
  fi
}

# whole LEAST NAME... ends the script unless these variables are whole numbers of at least LEAST.
whole() {
  local least="$1" name
  shift
  for name; do
    if ! [[ "${!name}" =~ ^(0|[1-9][0-9]{0,8})$ && "${!name}" -ge "$least" ]]; then
      echo "error: $name=${!name}: a whole number of at least $least is needed" >&2
      exit 2
    fi
  done
}

# yes_or_no NAME... ends the script unless these variables are yes, no or empty, and empties a no.
yes_or_no() {
  local name
  for name; do
    case "${!name}" in
      yes | "") ;;
      no) printf -v "$name" '' ;;
      *)
        echo "error: $name=${!name}: yes or no is needed" >&2
        exit 2
        ;;
    esac
  done
}

# step NAME COMMAND... runs it with its output in the file $log, and adds a line with its seconds to
# $REPORT. One that fails ends the script.
step() {
  local name="$1" began=$SECONDS status=0
  shift
  if [[ -n "$dry_run" ]]; then
    echo "$name: $(call "$@")"
    return
  fi
  "$@" > "${log:?}" 2>&1 || status=$?
  printf '%-12s %4d s  exit code %d\n' "$name" $((SECONDS - began)) "$status" | tee -a "$REPORT"
  if [[ "$status" -ne 0 ]]; then
    tail -n 30 "$log" | tee -a "$REPORT"
    echo "FAILED at: $name. Please paste $REPORT into an issue." | tee -a "$REPORT"
    exit 1
  fi
}
