"""Ablations of CGRSeg's parts under the short protocol, on CamVid with cgrseg-lite0: trains what is missing, one table.

    python benchmarks/cgrseg_ablations.py --data-root PATH/camvid --out runs/cgrseg-ablations [--jobs 2]

The first row is cgrseg-lite0 as it comes: axial "add", band 11. benchmarks/ablations.py says what the short protocol
is. Kill it at any time: it goes on where it was.
"""

from ablations import ablate

VARIANTS = {
    "cgrseg": (),
    "no context": ("model.context=false",),
    "no reconstruction": ("model.reconstruction=false",),
    "no prototype head": ("model.prototype_head=false",),
    "axial mul": ('model.axial="mul"',),
    "axial none": ('model.axial="none"',),
    "band 5": ("model.band=5",),
}

if __name__ == "__main__":
    ablate(__doc__, "cgrseg-lite0_camvid", VARIANTS)
