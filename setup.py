"""Build hook: the protobuf modules are generated before they are packed. All else is in pyproject.toml."""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent


def generate() -> None:
    """Run hack/generate-proto."""
    runpy.run_path(str(HERE / "hack/generate-proto"))["generate"](HERE)


class BuildWithProto(build_py):
    """Generate, then copy the modules (an editable install only generates)."""

    def run(self) -> None:
        """Generate before setuptools looks which modules there are."""
        generate()
        super().run()


class SdistWithProto(sdist):
    """A source archive carries the generated modules too."""

    def run(self) -> None:
        """Generate before setuptools looks which files there are."""
        generate()
        super().run()


setup(cmdclass={"build_py": BuildWithProto, "sdist": SdistWithProto})
