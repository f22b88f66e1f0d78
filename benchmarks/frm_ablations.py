"""Train the missing ablations of the FRM paper on CamVid with frm-lite0 and print two tables.

    python benchmarks/frm_ablations.py --data-root PATH/camvid --out runs/ablations [--jobs 2]

benchmarks/ablations.py describes the short protocol. The first table is the pixel contrast in the
paper's regime: its optimiser, its plain cross-entropy and augmentation, and two images contrasted
with each other, as many as each of its devices had. The script can be killed at any time; the same
command continues.
"""

from ablations import ablate

VARIANTS = {
    "frm": (),
    "ppm": ('model.context="ppm"',),
    "dappm": ('model.context="dappm"',),
    "none": ('model.context="none"',),
    "last stage": ('model.stages="last"',),
    "contrast": ("loss.contrast=1.0",),
    # none in the first fifth of the 1,480 steps
    "contrast warm-up": ("loss.contrast=1.0", "loss.contrast_warmup_steps=296"),
}
PAPER = (
    'train.optimizer="sgd"',
    "train.lr=0.01",
    "train.backbone_lr=0.01",
    "train.weight_decay=1e-4",
    'train.groups="uniform"',
    "train.power=1.0",
    "train.ema=0",
    'loss.class_weights="none"',
    "augment.scale=[0.25, 1.0]",  # the paper's [0.5, 2.0] on half-size images
    'augment.scale_drawn="uniformly"',
    "augment.category_ratio=1.0",
    "augment.brightness=0",
    "augment.contrast=0",
    "augment.saturation=0",
)
CONTRAST = {
    "paper regime": PAPER,
    "paper regime contrast": (*PAPER, "loss.contrast=1.0", "loss.contrast_group=2"),
}

if __name__ == "__main__":
    for variants in (CONTRAST, VARIANTS):
        ablate(__doc__, "frm-lite0_camvid", variants)
