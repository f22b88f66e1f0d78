"""Train the missing ablations of RSP's relation on CamVid with rsp-lite0 and print one table.

    python benchmarks/rsp_ablations.py --data-root PATH/camvid --out runs/rsp-ablations [--jobs 2]

The first row is the shipped rsp-lite0; "concat" and "sum", on the same pyramid, are what the paper
argues against. benchmarks/ablations.py describes the short protocol. The script can be killed at
any time; the same command continues.
"""

from ablations import ablate

VARIANTS = {
    "rsp": (),
    "concat": ('model.aggregation="concat"',),
    "sum": ('model.aggregation="sum"',),
}

if __name__ == "__main__":
    ablate(__doc__, "rsp-lite0_camvid", VARIANTS)
