"""The one thing that pyproject.toml cannot say: how the optional C extension is compiled, by which compiler."""

import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")  # one build for every later Python
FLAGS = {"msvc": ["/O2", "/fp:precise"]}
OTHER_FLAGS = ["-O3", "-ffp-contract=off", "-std=c11"]


class BuildKernels(build_ext):
    """No fused multiply-add and no instruction set of this machine alone: every build gives the same masks."""

    def build_extension(self, extension: Extension) -> None:
        extension.extra_compile_args = FLAGS.get(self.compiler.compiler_type, OTHER_FLAGS)
        super().build_extension(extension)


setup(
    cmdclass={"build_ext": BuildKernels},
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
