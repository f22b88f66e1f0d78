"""The ablations of the FRM paper under the short protocol, on CamVid with frm-lite0: trains what is missing, one table.

    python benchmarks/frm_ablations.py --data-root PATH/camvid --out runs/ablations [--jobs 2]

benchmarks/ablations.py says what the short protocol is. Kill it at any time: it goes on where it was.
"""

from ablations import ablate

VARIANTS = {
    "frm": (),
    "ppm": ('model.context="ppm"',),
    "dappm": ('model.context="dappm"',),
    "none": ('model.context="none"',),
    "last stage": ('model.stages="last"',),
    "contrast": ("loss.contrast=1.0",),
}

if __name__ == "__main__":
    ablate(__doc__, "frm-lite0_camvid", VARIANTS)
