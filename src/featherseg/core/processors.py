"""The name of this machine's processor, also where the system states numbers alone, as on ARM.

This file stands alone: it needs Python 3.9 and imports nothing of featherseg. The bundle of
`fit --measure` contains a copy of it beside measure.py.
"""

import platform
import subprocess
import sys

SYSCTL = "/usr/sbin/sysctl"

IMPLEMENTERS = {
    "0x41": "ARM",
    "0x42": "Broadcom",
    "0x43": "Cavium",
    "0x46": "Fujitsu",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x53": "Samsung",
    "0x61": "Apple",
    "0x6d": "Microsoft",
    "0x70": "Phytium",
    "0xc0": "Ampere",
}
"""CPU implementer in /proc/cpuinfo -> its name."""

ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd0e": "Cortex-A76AE",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4a": "Neoverse-E1",
    "0xd4b": "Cortex-A78C",
    "0xd4c": "Cortex-X1C",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
    "0xd83": "Neoverse-V3AE",
    "0xd84": "Neoverse-V3",
    "0xd85": "Cortex-X925",
    "0xd87": "Cortex-A725",
    "0xd8e": "Neoverse-N3",
}
"""CPU part of a core by ARM -> its name (MIDR_EL1 in ARM's technical reference manuals)."""

APPLE_FLAGS = {
    "hw.optional.neon": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
"""Name in macOS's sysctl -> Linux's name of the instructions."""


def read_cpuinfo() -> str:
    """Return the text of /proc/cpuinfo; empty if there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def arm_cores(cpuinfo: str) -> str:
    """Return the kinds of ARM cores in a text of /proc/cpuinfo; empty if it names none.

    A processor with two kinds is `ARM Cortex-A55 + ARM Cortex-A76`.
    """
    kinds, implementer = dict[str, None](), ""
    for line in cpuinfo.splitlines():
        key, _, value = (words.strip() for words in line.partition(":"))
        if key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            maker = IMPLEMENTERS.get(implementer, f"implementer {implementer}")
            part = ARM_PARTS.get(value) if implementer == "0x41" else None
            kinds[f"{maker} {part or f'part {value}'}"] = None
    return " + ".join(kinds)


def processor_name() -> str:
    """Return `Apple M2`, `ARM Cortex-A76`, or what Python knows of the processor."""
    cores = arm_cores(read_cpuinfo()) or sysctl("machdep.cpu.brand_string")
    return cores or platform.processor() or platform.machine()


def apple_flags() -> "list[str]":
    """Return the instructions of a Mac with Apple's processor that models run faster with."""
    return [flag for name, flag in APPLE_FLAGS.items() if sysctl(name) == "1"]


def sysctl(name: str) -> str:
    """Return a value of macOS's sysctl; empty on other systems and for unknown names."""
    if sys.platform != "darwin":
        return ""
    done = subprocess.run([SYSCTL, "-n", name], capture_output=True, check=False)
    return done.stdout.decode(errors="replace").strip()
