# Look whether commands are there, by Debian's packages. Usage: debian_packages.sh [--install] COMMAND=PACKAGE…
# What is missing is named, with its purpose, and the exit code is 1: nothing is changed on the system. With --install,
# which `make apt` alone says, root's apt-get installs it.
set -eu

install=no
if [ "${1:-}" = --install ]; then
  install=yes
  shift
fi
packages=""
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null 2>&1 || packages="$packages ${pair#*=}"
done
[ -n "$packages" ] || exit 0

for package in $packages; do
  case $package in
    bubblewrap) purpose="makes the local backend's sandboxes" ;;
    slirp4netns) purpose="gives these sandboxes a network" ;;
    chromium) purpose="runs the tests in a browser, which are skipped without it" ;;
    python3-venv) purpose="makes .venv" ;;
    *) purpose="is needed" ;;
  esac
  echo "Debian package $package $purpose" >&2
done

if [ $install = no ]; then
  echo "missing:$packages. Nothing was installed; 'make apt' as root does it (sudo apt-get install$packages)" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing Debian packages:$packages"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086 - the list is meant to be split
  if { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >"$log" 2>&1 </dev/null; then
    rm -f "$log"
    exit 0
  fi
  tail -n 5 "$log" >&2
  rm -f "$log"
fi
echo "missing Debian packages; install them with: sudo apt-get install -y$packages" >&2
exit 1
