"""Train the missing ablations of CGRSeg's parts on CamVid with cgrseg-lite0 and print one table.

    python benchmarks/cgrseg_ablations.py --data-root PATH/camvid --out runs/cgrseg-ablations

The first row is the shipped cgrseg-lite0: axial "add", band 11. benchmarks/ablations.py describes
the short protocol. The script can be killed at any time; the same command continues.
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
