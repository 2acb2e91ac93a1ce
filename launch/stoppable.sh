#!/usr/bin/env bash
# Runs a command, and tells a scheduler whether it is to be started again.
#
#   launch/stoppable.sh python -m diffjax.main --config=... --workdir=...
#
# diffjax ends with exit code 0 both when a run is done and when SIGTERM had it save and stop. Here
# the exit code is 75 ("try again") after SIGTERM, which is passed on, and the command's otherwise.
set -euo pipefail

if [[ $# -eq 0 || "$1" == --help ]]; then
  sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi
stopped="" command=""
pass_on() {
  [[ -z "$command" ]] || kill -TERM "$command" 2> /dev/null || true
}
trap 'stopped=yes; pass_on' TERM # before the command can be asked for
"$@" &
command=$!
[[ -z "$stopped" ]] || pass_on
status=0
wait "$command" || status=$?
# A trap ends `wait`, while the command is still saving.
while kill -0 "$command" 2> /dev/null; do
  status=0
  wait "$command" || status=$?
done
if [[ -n "$stopped" && ("$status" -eq 0 || "$status" -eq 143) ]]; then
  exit 75
fi
exit "$status"
