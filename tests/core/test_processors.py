"""Processors are named from recorded texts of /proc/cpuinfo and values of sysctl."""

import ast
import os
import shutil
import sys
from pathlib import Path

import pytest

from featherseg.core import machine, processors
from featherseg.core.processors import apple_flags, arm_cores, processor_name

CORE = """\
processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: {implementer}
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: {part}
CPU revision\t: 1

"""

INTEL = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Processor
"""


def cpuinfo(*cores: str) -> str:
    """The text of a processor with these cores, `implementer/part` each."""
    return "".join(
        CORE.format(number=number, implementer=core.split("/")[0], part=core.split("/")[1])
        for number, core in enumerate(cores)
    )


@pytest.mark.parametrize(
    ("cores", "name"),
    [
        (["0x41/0xd08"] * 4, "ARM Cortex-A72"),  # Raspberry Pi 4
        (["0x41/0xd0b"] * 4, "ARM Cortex-A76"),  # Raspberry Pi 5
        (["0x41/0xd05"] * 4 + ["0x41/0xd0b"] * 4, "ARM Cortex-A55 + ARM Cortex-A76"),  # RK3588
        (["0x41/0xd0c"] * 2, "ARM Neoverse-N1"),  # Graviton 2, Ampere Altra
        (["0x41/0xd4f"] * 2, "ARM Neoverse-V2"),  # Graviton 4, Grace
        (["0x41/0xd84"], "ARM Neoverse-V3"),
        (["0x41/0xfff"], "ARM part 0xfff"),
        (["0xc0/0xac3"], "Ampere part 0xac3"),
        (["0x99/0xd08"], "implementer 0x99 part 0xd08"),
        ([], ""),
    ],
)
def test_cores_of_arm_are_named_by_implementer_and_part(cores, name):
    assert arm_cores(cpuinfo(*cores)) == name


def test_other_processors_have_no_cores_of_arm():
    assert arm_cores(INTEL) == ""


def test_the_record_of_an_arm_machine_names_its_cores(monkeypatch):
    for module in (machine, processors):
        monkeypatch.setattr(module, "read_cpuinfo", lambda: cpuinfo("0x41/0xd40"))
    assert machine.processor()["processor"] == "ARM Neoverse-V1"


def test_without_lscpu_the_text_of_the_system_tells_name_and_flags(monkeypatch):
    by_lscpu, has_lscpu = machine.processor(), shutil.which("lscpu")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    if has_lscpu and processors.read_cpuinfo():
        alone = machine.processor()
        assert alone == {key: by_lscpu[key] for key in alone}
        assert alone["flags"]
    monkeypatch.setattr(machine, "read_cpuinfo", lambda: INTEL + "flags\t: fpu avx2 amx_bf16\n")
    assert machine.processor() == {
        "processor": "Intel(R) Xeon(R) Processor",
        "cpu_family": "6",
        "cpu_model": "143",
        "flags": ["avx2", "amx_bf16"],
    }
    monkeypatch.setattr(machine, "read_cpuinfo", lambda: cpuinfo("0x41/0xd0b"))
    arm = machine.processor()
    assert (arm["processor"], arm["flags"]) == ("ARM Cortex-A76", ["asimd", "asimddp"])


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for sysctl is a script")
def test_a_mac_is_named_by_sysctl(tmp_path, monkeypatch):
    stand_in = tmp_path / "sysctl"
    stand_in.write_text(
        "#!/bin/sh\n"
        'case "$2" in machdep.cpu.brand_string) echo "Apple M2" ;;'
        " hw.optional.neon|*FEAT_DotProd|*FEAT_BF16) echo 1 ;; *FEAT_SME) echo 0 ;;"
        " *) exit 1 ;; esac\n"
    )
    stand_in.chmod(0o755)
    monkeypatch.setattr(processors, "SYSCTL", str(stand_in))
    monkeypatch.setattr(processors, "read_cpuinfo", lambda: "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processor_name() == "Apple M2"
    assert apple_flags() == ["asimd", "asimddp", "bf16"]


def test_the_file_stands_alone_in_the_syntax_of_python_3_9():
    text = Path(processors.__file__).read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 9))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    assert names <= set(sys.stdlib_module_names)
