import subprocess
import sys

import pytest

from featherseg.data import dataset_facts
from featherseg.data.datasets.class_lists import read_classes


@pytest.mark.slow
def test_importing_the_datasets_reads_no_class_list():
    code = (
        "import featherseg.data\n"
        "from featherseg.data.datasets.class_lists import read_classes as read; "
        "before = read.cache_info().misses; featherseg.data.dataset_facts('ade20k'); "
        "print(before, read.cache_info().misses)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "1"]


def test_a_line_gives_number_name_colour_and_kind():
    person, banner = (read_classes("coco_panoptic")[number] for number in (1, 92))
    assert (person.name, person.color, person.thing) == ("person", (220, 20, 60), True)
    assert (banner.name, banner.color, banner.thing) == ("banner", (255, 255, 128), False)


def test_facts_are_made_once():
    assert dataset_facts("coco-stuff-10k") is dataset_facts("coco-stuff-10k")
