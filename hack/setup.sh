# Sourced by hack/demo and hack/test: gets what a fresh Debian machine lacks.
# Needs root, Debian's packages and PyPI; nothing else.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "must run as root: containers need mounts and namespaces"; }

# packages PACKAGE...: install those that are missing, asking the archive only if one is.
packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || die "apt-get update failed: are Debian's packages reachable?"
  # Services of these packages are not wanted: only their programs are.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; fi
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  local status=$?
  [ -n "$made" ] && rm -f $policy
  [ $status = 0 ] || die "cannot install ${missing[*]}"
}

# python_at_least_311: print a Python that will do, installing Debian's if there is none.
python_at_least_311() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  packages python3 python3-venv >&2
  /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
  echo /usr/bin/python3
}

# venv DIR PIP-ARGUMENT...: a virtual environment with these installed; made anew when pyproject.toml,
# the protocol or the arguments changed. One script makes it, those that are started meanwhile wait for that.
venv() {
  (flock 9 && _venv "$@") 9>"$1.lock" || exit 1
}

_venv() {
  local dir=$1; shift
  local stamp
  stamp=$(cat "$here/pyproject.toml" "$here"/setup.py "$here"/proto/*/*/* "$here"/proto/* 2>/dev/null | sha256sum; echo "$*")
  if [ -x "$dir/bin/python" ] && [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  local python
  python=$(python_at_least_311) || exit 1
  # Where the environment to be made anew is first in PATH: what it was made from, not what is removed with it.
  python=$("$python" -c 'import sys; print(sys._base_executable)') || exit 1
  say "making the virtual environment $dir"
  rm -rf "$dir"
  "$python" -m venv "$dir" 9>&- || die "cannot make a virtual environment with $python"
  "$dir/bin/pip" install -q --disable-pip-version-check "$@" 9>&- || die "pip cannot install $*: is PyPI reachable?"
  printf '%s\n' "$stamp" >"$dir/.stamp"
}
