"""What RSP's relation is worth under the short protocol, on CamVid with rsp-lite0: trains what is missing, one table.

    python benchmarks/rsp_ablations.py --data-root PATH/camvid --out runs/rsp-ablations [--jobs 2]

The first row is rsp-lite0 as it comes; "concat" and "sum" are what the paper argues against, on the same pyramid.
benchmarks/ablations.py says what the short protocol is. Kill it at any time: it goes on where it was.
"""

from ablations import ablate

VARIANTS = {
    "rsp": (),
    "concat": ('model.aggregation="concat"',),
    "sum": ('model.aggregation="sum"',),
}

if __name__ == "__main__":
    ablate(__doc__, "rsp-lite0_camvid", VARIANTS)
