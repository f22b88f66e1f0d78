"""Compile the optional C extension, which pyproject.toml cannot describe."""

import os
import re
import sys
import sysconfig
import tempfile
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")  # one build for every later Python
FLAGS = {"msvc": ["/O2", "/fp:precise"]}
OTHER_FLAGS = ["-O3", "-ffp-contract=off", "-std=c11"]


class BuildKernels(build_ext):
    """No fused multiply-add and no instructions of one machine: all builds give equal masks."""

    compiled = True
    compiler_error = ""

    def run(self) -> None:
        """Compile it; if that fails, remove an older build and keep the compiler's first error."""
        super().run()
        for extension in self.extensions:
            built = Path(self.get_ext_fullpath(extension.name))
            report = built.with_name("not_compiled.txt")  # `featherseg doctor` prints it
            report.unlink(missing_ok=True)
            if not self.compiled:
                built.unlink(missing_ok=True)
            if self.compiler_error:
                report.parent.mkdir(parents=True, exist_ok=True)
                report.write_text(self.compiler_error, encoding="utf-8")

    def build_extension(self, extension: Extension) -> None:
        """Compile it; if that fails, warn."""
        extension.extra_compile_args = FLAGS.get(self.compiler.compiler_type, OTHER_FLAGS)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            before = {number: os.dup(number) for number in (1, 2)}
            for number in before:
                os.dup2(output.fileno(), number)
            try:
                super().build_extension(extension)
            except Exception:
                self.compiled = False
                raise  # the extension is optional: setuptools goes on
            finally:
                for number, copy in before.items():
                    os.dup2(copy, number)
                    os.close(copy)
                output.seek(0)
                text = output.read()
                sys.stderr.write(text)
                if not self.compiled:
                    errors = [line for line in text.splitlines() if re.search(r"\berror\b", line)]
                    self.compiler_error = errors[0].strip() if errors else ""
                    self.warn(
                        "NO C COMPILER WORKED: featherseg uses numpy, slower, with equal results. "
                        f"{self.compiler_error or 'No compiler was found'}. Install a compiler and "
                        "Python's headers (on Debian: gcc and python3-dev) and build again; "
                        "`featherseg doctor` says what runs."
                    )


class Wheel(bdist_wheel):
    """A wheel without compiled loops is named as one: py3-none-any."""

    def run(self) -> None:
        """Compile first: whether that succeeds decides the wheel's name."""
        self.run_command("build")
        if not self.get_finalized_command("build_ext").compiled:
            self.distribution.ext_modules = None
            self.root_is_pure = True
        super().run()


setup(
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
    ext_modules=[
        Extension(
            "featherseg.kernels._native",
            sorted(glob("src/featherseg/kernels/*.c")),
            depends=sorted(glob("src/featherseg/kernels/*.h")),
            py_limited_api=STABLE_ABI,
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE_ABI else [],
            optional=True,  # without it featherseg.kernels computes the same in torch and numpy
        )
    ],
)
