"""The 19 classes of Cityscapes (Cordts et al., CVPR 2016), which BDD100K shares, and their two ids.

Train ids 0..18 are the class ids of this package. Label ids 0..33 are the values of the official
masks and of the official evaluation; those that belong to none of the 19 classes are void.
"""

from featherseg.core.types import IGNORE, ClassInfo
from featherseg.data.images.labels import LabelMap

CITYSCAPES_CLASSES = (  # in the order of the train ids
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sidewalk", (244, 35, 232)),
    ClassInfo("building", (70, 70, 70)),
    ClassInfo("wall", (102, 102, 156)),
    ClassInfo("fence", (190, 153, 153)),
    ClassInfo("pole", (153, 153, 153)),
    ClassInfo("traffic light", (250, 170, 30)),
    ClassInfo("traffic sign", (220, 220, 0)),
    ClassInfo("vegetation", (107, 142, 35)),
    ClassInfo("terrain", (152, 251, 152)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("person", (220, 20, 60), thing=True),
    ClassInfo("rider", (255, 0, 0), thing=True),
    ClassInfo("car", (0, 0, 142), thing=True),
    ClassInfo("truck", (0, 0, 70), thing=True),
    ClassInfo("bus", (0, 60, 100), thing=True),
    ClassInfo("train", (0, 80, 100), thing=True),
    ClassInfo("motorcycle", (0, 0, 230), thing=True),
    ClassInfo("bicycle", (119, 11, 32), thing=True),
)

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of every train id."""

LAST_LABEL_ID = 33

# Label id -1, the licence plate, occurs in no mask: its pixels have the id of the vehicle.
FROM_LABEL_IDS = LabelMap(
    {i: LABEL_IDS.index(i) if i in LABEL_IDS else IGNORE for i in range(LAST_LABEL_ID + 1)},
    expected="the label ids of Cityscapes (0 to 33; train ids are expected in *_labelTrainIds.png)",
)

FROM_TRAIN_IDS = LabelMap(
    {**{i: i for i in range(len(CITYSCAPES_CLASSES))}, IGNORE: IGNORE},
    expected="the 19 train ids (0 to 18, and 255 = ignore)",
)
