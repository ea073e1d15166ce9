"""Take each protection out of a copy of this tree: a test of hostile containers fails then. Run by ``hack/mutate-hostile``.

It works in a copy in a temporary directory with a virtual environment of its own; the tree stays as it is.
The mutations are in hack/mutations.toml: pieces of text, what comes in their place, and the test that must fail.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TIMEOUT_S = 150


def copy_tree(target: Path) -> None:
    for name in ("shim", "tests", "hack", "pyproject.toml"):
        source = HERE / name
        if source.is_dir():
            shutil.copytree(
                source, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(source, target / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", target / ".venv"], check=True)
    packages = next((target / ".venv/lib").glob("python*/site-packages"))
    (packages / "tree.pth").write_text(f"{target}\n{sysconfig.get_paths()['purelib']}\n")


def mutate(tree: Path, edits: list[dict[str, str]]) -> dict[Path, str]:
    """Apply edits; return what the files were."""
    before: dict[Path, str] = {}
    for edit in edits:
        path = tree / edit["file"]
        text = path.read_text()
        before.setdefault(path, text)
        if text.count(edit["old"]) != 1:
            raise SystemExit(f"{edit['file']} has {text.count(edit['old'])} times, not once:\n{edit['old']}")
        path.write_text(text.replace(edit["old"], edit["new"]))
    return before


def fails(tree: Path, tests: list[str]) -> tuple[bool, str]:
    """Return whether a test fails, and what pytest says. An error before the test, or no end, is no failure."""
    command = [tree / ".venv/bin/python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no end within {TIMEOUT_S} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    how = (failed or done.stdout.splitlines()[-1:] or [""])[0]
    return done.returncode == 1 and how.startswith("FAILED"), how


def main() -> int:
    mutations = tomllib.loads((HERE / "hack/mutations.toml").read_text())["mutation"]
    words = sys.argv[1:]
    survived = 0
    with tempfile.TemporaryDirectory(prefix="cri-shim-test-mutants-", dir="/var/tmp") as directory:
        tree = Path(directory)
        copy_tree(tree)
        for mutation in mutations:
            if words and not any(word in mutation["name"] for word in words):
                continue
            began = time.monotonic()
            before = mutate(tree, mutation["edit"])
            killed, how = fails(tree, mutation["tests"])
            for path, text in before.items():
                path.write_text(text)
            survived += not killed
            print(
                f"{'fails' if killed else 'SURVIVES':8} {mutation['name']}  ({time.monotonic() - began:.0f} s)"
            )
            print(f"         {how}", flush=True)
    print(f"{survived} protections can be taken out without a test that fails")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
