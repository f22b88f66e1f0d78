"""Compile the optional C extension, which pyproject.toml cannot describe."""

import os
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")  # one build for every later Python
FLAGS = {"msvc": ["/O2", "/fp:precise"]}
OTHER_FLAGS = ["-O3", "-ffp-contract=off", "-std=c11"]


class BuildKernels(build_ext):
    """No fused multiply-add and no instructions of one machine: all builds give equal masks."""

    compiled = True

    def build_extension(self, extension: Extension) -> None:
        """Compile it; if that fails, warn and remove an older build."""
        extension.extra_compile_args = FLAGS.get(self.compiler.compiler_type, OTHER_FLAGS)
        try:
            super().build_extension(extension)
        except Exception:
            self.compiled = False
            if os.path.exists(older := self.get_ext_fullpath(extension.name)):
                os.remove(older)
            self.warn(
                "NO C COMPILER WORKED: featherseg uses numpy, slower, with equal results. Install "
                "a compiler and Python's headers (on Debian: gcc and python3-dev) and build again; "
                "`featherseg doctor` says what runs."
            )
            raise  # the extension is optional: setuptools goes on


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
