"""The one thing that pyproject.toml cannot say: how the optional C extension is compiled, by which compiler."""

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
    """No fused multiply-add and no instruction set of this machine alone: every build gives the same masks."""

    compiled = True

    def build_extension(self, extension: Extension) -> None:
        """Compile it; where that fails say what it means, and leave no older build in its place."""
        extension.extra_compile_args = FLAGS.get(self.compiler.compiler_type, OTHER_FLAGS)
        try:
            super().build_extension(extension)
        except Exception:
            self.compiled = False
            if os.path.exists(older := self.get_ext_fullpath(extension.name)):
                os.remove(older)
            self.warn(
                "NO C COMPILER WORKED, so featherseg's loops are not compiled: numpy runs in their place, slower, with "
                "the same results. Install a compiler and Python's headers (on Debian: gcc and python3-dev), and build "
                "again; `featherseg doctor` says what runs."
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
            optional=True,  # without a compiler featherseg.kernels computes the same in torch and numpy
        )
    ],
)
