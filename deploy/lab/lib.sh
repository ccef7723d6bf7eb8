# lib.sh: settings and small functions of the lab's scripts (sourced).

LAB_STATE=${LAB_STATE:-/var/lib/siesta-lab}   # everything the lab keeps; nothing of it lies anywhere else
LAB_GATEWAY=10.77.0.1                         # the host's side of the guests' network
LAB_CIDR=10.77.0.0/24
lab_run=$LAB_STATE/run                        # process ids (as seen inside)
lab_log=$LAB_STATE/log
lab_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The system's own Python and tools, whatever the caller has in front of them.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=${HOME:-/root}
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export LAB_STATE LAB_GATEWAY LAB_CIDR

lab_began=${lab_began:-$(date +%s)}
export lab_began
say() { printf '[%4d s] %s\n' $(($(date +%s) - lab_began)) "$*"; }
die() { say "lab: $*" >&2; exit 1; }

# attempt LOG COMMAND...: quiet when it works; the end of its output when it does not.
attempt() {
  local log=$lab_log/$1.log; shift
  "$@" >>"$log" 2>&1 || { tail -n 15 "$log" >&2; die "failed: $* (log: $log)"; }
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local end=$(($(date +%s) + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$end" ] || die "$what is not there; logs are in $lab_log"
    sleep 0.5
  done
}

# holder: the process id, as seen out here, of the namespaces' first process; fails when there is none.
# The command line is compared, so that a number that a reboot handed to somebody else is not believed.
holder() {
  local outer inner
  outer=$(cat "$LAB_STATE/unshare.pid" 2>/dev/null) || return 1
  inner=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null) || return 1
  inner=${inner%% *}
  [ -n "$inner" ] && tr '\0' '\n' <"/proc/$inner/cmdline" 2>/dev/null | grep -qx "siesta-lab-holder:$LAB_STATE" || return 1
  echo "$inner"
}

# within COMMAND...: runs it in the lab's namespaces, in the present folder. --root, since a caller in a chroot would
# otherwise find himself at the real root.
within() {
  local pid
  pid=$(holder) || die "is not up (deploy/lab/lab up)"
  nsenter -t "$pid" --mount --net --uts --ipc --pid --root --wd=/ -- /bin/bash -c 'cd "$1" && shift && exec "$@"' lab "$PWD" "$@"
}
