"""``sync DIRECTORY`` in a container commits a volume, as on Modal: a small script stands in front of the real one."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from skyrl_magic.loopback.runtime.spec import COMMIT, CONTROL_DIR, REQUESTS_NAME

_SCRIPT = """\
#!/bin/sh
# sync of a path on a volume commits the volume; everything else is the machine's own sync.
control={control}
paths=
for word in "$@"; do
  case $word in -*) continue ;; esac
  if [ -d "$word" ]; then
    path=$(cd -P -- "$word" && pwd -P)
  else
    path=$(cd -P -- "$(dirname -- "$word")" && pwd -P)/file
  fi
  case $path/ in {patterns}) paths=$paths$path// ;; esac
done
if [ -z "$paths" ]; then
  exec "$control/real-sync" "$@"
fi
reply=reply.$$
while ! mkfifo -m 600 "$control/$reply" 2>/dev/null; do
  [ -e "$control/$reply" ] || exit 1
  reply=$reply.x
done
# Open for both before asking, so that the answer finds a reader.
exec 3<>"$control/$reply"
trap 'rm -f "$control/$reply"' EXIT
printf '%s\n' "{commit} $reply $paths" >"$control/{requests}"
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
    script = _SCRIPT.format(control=CONTROL_DIR, patterns=patterns, commit=COMMIT, requests=REQUESTS_NAME)
    wrapper = control / "sync"
    wrapper.write_text(script, encoding="utf-8")
    wrapper.chmod(0o755)
    return ["--ro-bind", str(real), f"{CONTROL_DIR}/real-sync", "--ro-bind", str(wrapper), str(real)]
