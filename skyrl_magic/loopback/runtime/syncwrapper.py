"""``sync DIRECTORY`` in a container commits a volume, as on Modal: a small script stands in front of the real one.

The script asks the keeper through the pipe of its requests and reads the answer from a pipe in the control directory.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from skyrl_magic.loopback.runtime.replies import SLOTS
from skyrl_magic.loopback.runtime.spec import COMMIT, CONTROL_DIR, REQUESTS_NAME

# A run's end waits for this script, so its usual way, one absolute directory, starts no process.
_SCRIPT = """\
#!/bin/sh
# sync of a path on a volume commits the volume; everything else is the machine's own sync.
control={control}
here() {{
  case $PWD/ in {patterns}) paths=$paths$PWD// ;; esac
}}
paths=
case $#$1 in
  1/*) cd -P -- "$1" 2>/dev/null && here ;;
esac
if [ -z "$paths" ]; then
  for word in "$@"; do
    case $word in -*) continue ;; esac
    if [ -d "$word" ]; then
      path=$(cd -P -- "$word" && pwd -P)
    else
      path=$(cd -P -- "$(dirname -- "$word")" && pwd -P)/file
    fi
    case $path/ in {patterns}) paths=$paths$path// ;; esac
  done
fi
if [ -z "$paths" ]; then
  exec "$control/real-sync" "$@"
fi
# A free slot's pipe is there already; who makes the slot's file has it.
set -C
reply=
for slot in {slots}; do
  if [ ! -e "$control/taken.$slot" ] && true >"$control/taken.$slot"; then
    reply=reply.$slot
    break
  fi
done 2>/dev/null
if [ -z "$reply" ]; then
  reply=reply.$$
  while ! mkfifo -m 600 "$control/$reply" 2>/dev/null; do
    [ -e "$control/$reply" ] || exit 1
    reply=$reply.x
  done
  trap 'rm -f "$control/$reply"' EXIT
fi
# Open for both before asking, so that the answer finds a reader.
exec 3<>"$control/$reply"
printf '%s\n' "{commit} $reply $paths" >>"$control/{requests}"
read -r status message <&3
[ "$status" = ok ] && exit 0
echo "sync: $message" >&2
exit 1
"""


def install(control: Path, mount_paths: Sequence[str]) -> list[str]:
    """Write the wrapper and return bubblewrap's arguments that put it in the real one's place.

    Without a volume, or where ``sync`` is a part of a program with another name (busybox), nothing is put in its
    place.
    """
    found = shutil.which("sync", path="/usr/bin:/bin")
    if not mount_paths or found is None:
        return []
    real = Path(found).resolve()
    if real.name != "sync":
        return []
    patterns = "|".join(f"{shlex.quote(path.rstrip('/'))}/*" for path in mount_paths)
    script = _SCRIPT.format(
        control=CONTROL_DIR, patterns=patterns, commit=COMMIT, requests=REQUESTS_NAME, slots=" ".join(SLOTS)
    )
    wrapper = control / "sync"
    wrapper.write_text(script, encoding="utf-8")
    wrapper.chmod(0o755)
    return ["--ro-bind", str(real), f"{CONTROL_DIR}/real-sync", "--ro-bind", str(wrapper), str(real)]
