# Make sure that commands are there, by Debian's packages. Usage: debian_packages.sh COMMAND=PACKAGE…
# As root with apt-get the missing ones are installed; else one line says what to install, and the exit code is 1.
set -eu

packages=""
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null 2>&1 || packages="$packages ${pair#*=}"
done
[ -n "$packages" ] || exit 0

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
