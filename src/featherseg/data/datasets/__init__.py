"""The datasets with a name: `DATASETS` is the catalogue, one line for each."""

from featherseg.core.catalogue import Catalogue
from featherseg.data.datasets.ade20k import ADE20K
from featherseg.data.datasets.bdd100k import BDD100K
from featherseg.data.datasets.bdd100k_panoptic import BDD100KPanoptic
from featherseg.data.datasets.camvid import CamVid
from featherseg.data.datasets.cityscapes import Cityscapes
from featherseg.data.datasets.cityscapes_panoptic import CityscapesPanoptic
from featherseg.data.datasets.coco_panoptic import CocoPanoptic
from featherseg.data.datasets.coco_stuff import CocoStuff10k, CocoStuff164k
from featherseg.data.datasets.comma10k import Comma10k
from featherseg.data.datasets.pascal_context import PascalContext, PascalContext60
from featherseg.data.images.pairs import NamedData
from featherseg.data.shapes import Shapes

DATASETS: Catalogue[type[NamedData] | type[Shapes]] = Catalogue(
    "dataset",
    "featherseg.datasets",
    {
        "camvid": CamVid,
        "cityscapes": Cityscapes,
        "bdd100k": BDD100K,
        "comma10k": Comma10k,
        "ade20k": ADE20K,
        "coco-stuff-10k": CocoStuff10k,
        "coco-stuff-164k": CocoStuff164k,
        "coco-panoptic": CocoPanoptic,
        "cityscapes-panoptic": CityscapesPanoptic,
        "bdd100k-panoptic": BDD100KPanoptic,
        "pascal-context-59": PascalContext,
        "pascal-context-60": PascalContext60,
        "shapes": Shapes,
    },
    lambda entry: isinstance(entry, type) and issubclass(entry, NamedData),
    "a subclass of featherseg.data.images.pairs.NamedData",
)
"""Name -> class; `facts` and `splits` of a class are what is known of the data without its files.

All but `shapes`, which is generated, are opened with their root folder. A user's own folder has no
name here: its name is the path of its dataset.toml.
"""
