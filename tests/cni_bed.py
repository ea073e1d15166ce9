"""CNI plugins of the tests: they write down how they were called, hold something for pods, and misbehave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCRIPT = """#!/bin/sh
here=$(dirname "$0"); me=$(basename "$0"); config=$(cat)
[ "$CNI_COMMAND" = VERSION ] || printf '%s\\n' "$CNI_COMMAND $me ${CNI_NETNS:-gone} $config" >>"$here/calls"
case $(cat "$here/$me.$CNI_COMMAND" 2>/dev/null) in
  fail) echo '{"cniVersion":"1.0.0","code":7,"msg":"broken","details":"on purpose"}'
    echo "noise of $me" >&2; exit 1 ;;
  silent) exit 3 ;;
  words) echo "it broke" >&2; exit 2 ;;
  again) echo '{"code":11,"msg":"not yet"}'; exit 1 ;;
  unknown) echo '{"code":3,"msg":"never seen"}'; exit 1 ;;
  hang) [ "$CNI_COMMAND" != ADD ] || : >"$here/held/$me-$CNI_CONTAINERID"
    : >"$here/hangs"; sleep 1000 & wait; exit 0 ;;
  late) : >"$here/hangs"; sleep 0.5 ;;
  rubbish) echo '}{ nonsense'; exit 0 ;;
  list) echo '[]'; exit 0 ;;
  empty) exit 0 ;;
  flood) yes | head -c 3000000; exit 0 ;;
  without) printf '{"cniVersion":"1.0.0"}'; exit 0 ;;
esac
held=$here/held/$me-$CNI_CONTAINERID
case $CNI_COMMAND in
  VERSION)
    said=$(cat "$here/$me.versions" 2>/dev/null) || said='"0.4.0","1.0.0","1.1.0"'
    echo "{\\"cniVersion\\":\\"1.0.0\\",\\"supportedVersions\\":[$said]}" ;;
  ADD)
    : >"$held"
    echo '{"interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],'
    echo '"ips":[{"address":"10.0.0.2/24","interface":0}],"by":"'$me'"}' ;;
  DEL) rm -f "$held" ;;
  GC) for each in "$here/held/$me"-*; do
      case $config in *"${each##*-}"*) ;; *) rm -f "$each" ;; esac
    done ;;
esac
exit 0
"""


class Bed:
    """A directory with a configuration of plugins of the tests.

    What a plugin does at a verb is ``does``; it holds a file for each pod from ADD to DEL.
    """

    def __init__(self, path: Path, *plugins: str, version: str = "1.0.0", **more: Any) -> None:
        self.path = path
        self.conf_dir, self.bin_dir = path / "net.d", path / "bin"
        self.file = self.conf_dir / "10-net.conflist"
        self.plugins = plugins or ("first", "second")
        (self.bin_dir / "held").mkdir(parents=True)
        self.conf_dir.mkdir()
        for name in self.plugins:
            self.install(name)
        self.configure(version, **more)

    def install(self, name: str) -> None:
        (self.bin_dir / name).write_text(SCRIPT)
        (self.bin_dir / name).chmod(0o755)

    def remove(self, name: str) -> None:
        (self.bin_dir / name).unlink()

    def configure(self, version: str = "1.0.0", **more: Any) -> None:
        plugins = [{"type": name} for name in self.plugins]
        self.file.write_text(json.dumps({"cniVersion": version, "name": "net", "plugins": plugins} | more))

    def does(self, plugin: str, verb: str, how: str = "") -> None:
        """Make a plugin misbehave at a verb; without ``how`` it is good again."""
        place = self.bin_dir / f"{plugin}.{verb}"
        place.write_text(how) if how else place.unlink(missing_ok=True)

    def speaks(self, plugin: str, *versions: str) -> None:
        (self.bin_dir / f"{plugin}.versions").write_text(",".join(f'"{each}"' for each in versions))
        self.install(plugin)  # another file: what is known of the old one does not count

    def calls(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """(command, plugin, namespace, input), since the last call."""
        path = self.bin_dir / "calls"
        lines = [line.split(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return [(command, plugin, netns, json.loads(config)) for command, plugin, netns, config in lines]

    def verbs(self) -> list[tuple[str, str]]:
        """(command, plugin), since the last call."""
        return [call[:2] for call in self.calls()]

    def held(self) -> list[str]:
        return sorted(each.name for each in (self.bin_dir / "held").iterdir())

    def hangs(self) -> bool:
        """Tell whether a plugin has begun to hang."""
        return (self.bin_dir / "hangs").exists()
