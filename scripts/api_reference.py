"""Write docs/api.md from docstrings: python scripts/api_reference.py (a test compares the two)."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import featherseg

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# Python API

Written from docstrings by `python scripts/api_reference.py`. The verbs that work on data and runs
are functions. Each returns a result that shows itself in Jupyter and gives plain values with
`as_dict()`. No function prints, ends the program or changes torch's settings. Notices (a licence, a
split that is scored again) go to the logger `featherseg`; `logging.basicConfig(level="INFO")` shows
them. Long work takes `progress`, a function that is called with (current task, steps done, total
steps); without it a notebook shows a bar.
[examples/quickstart.ipynb](../examples/quickstart.ipynb) trains, scores, predicts and exports.
"""
PARTS = {
    "Functions": [
        f"featherseg.{name}"
        for name in (
            *("fit", "train", "evaluate", "predict", "export", "report", "push", "serve"),
            *("compare", "sweep", "benchmark", "check", "audit", "convert", "prepare", "cost"),
            *(
                "load_run",
                "open_dataset",
                "build",
                "list_models",
                "load_official",
                "import_weights",
                "optimize",
            ),
        )
    ],
    "Classes": [
        "featherseg.Predictor",
        "featherseg.runs.run.Run",
        "featherseg.evaluation.scoring.Scores",
        "featherseg.Prediction",
        "featherseg.inference.folder.PredictedFolder",
        "featherseg.inference.output.OutputSettings",
        "featherseg.inference.cluster.PredictedShards",
        "featherseg.inference.video.segmentation.VideoResult",
        "featherseg.inference.video.camera.Recording",
        "featherseg.inference.reporter.PredictReporter",
        "featherseg.exporters.ExportReport",
        "featherseg.reports.run_report.Report",
        "featherseg.data.checks.report.CheckReport",
        "featherseg.converters.dataset.Conversion",
        "featherseg.costs.cost.Cost",
        "featherseg.comparison.compare_results.Comparison",
        "featherseg.comparison.sweep.Sweep",
        "featherseg.fitting.results.FitResult",
        "featherseg.fitting.fit.FitSettings",
        "featherseg.comparison.benchmark_results.Benchmark",
        "featherseg.inference.settings.InferenceSettings",
        "featherseg.core.types.SegmentationData",
        "featherseg.core.types.Sample",
        "featherseg.core.types.ClassInfo",
        "featherseg.layers.own_model.OwnModel",
        "featherseg.FeathersegError",
    ],
}
BLOCKS = ("Args", "Returns", "Raises")


def page() -> str:
    """The page as Markdown."""
    parts, taken = [HEAD], set()
    for heading, paths in PARTS.items():
        links = []
        for name in (path.rpartition(".")[2] for path in paths):
            again = (
                "-1" if name.lower() in taken else ""
            )  # as the second heading `cost` is called, which is `Cost`
            taken.add(name.lower())
            links.append(f"[{name}](#{name.lower()}{again})")
        parts.append(f"## {heading}\n\n{' · '.join(links)}\n")
        parts += [_entry(path) for path in paths]
    return "\n".join(parts)


def _entry(path: str) -> str:
    """Return the section of a function or class: signature, docstring, own methods, properties."""
    module, _, name = path.rpartition(".")
    thing = getattr(featherseg if module == "featherseg" else import_module(module), name)
    lines = [f"### {name}\n", f"```python\n{_call(path, thing)}\n```\n", _text(thing), ""]
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        for key, member in vars(thing).items():
            function = getattr(member, "fget", getattr(member, "func", member))
            if key.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                continue
            called = "" if function is not member else _arguments(function)
            lines.append(
                f"- `{key}{called}`: {' '.join(inspect.cleandoc(function.__doc__).split())}"
            )
        lines += [""] if lines[-1] else []
    return "\n".join(lines)


def _call(path: str, thing: Any) -> str:
    """As it is written in a program, an argument a line where that is long."""
    if getattr(thing, "_is_protocol", False):
        return f"class {path}  # a protocol"
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return f"class {path}(Exception)"
    return f"{path}{_arguments(thing)}"


def _arguments(function: Any) -> str:
    """A signature, an argument a line where it is long."""
    signature = inspect.signature(function)
    arguments, keyword_only = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            arguments.append("*")
            keyword_only = True
        text = parameter.name + _type(": ", parameter.annotation)
        if parameter.default is not parameter.empty:
            default = repr(parameter.default)
            text += f" = {'...' if default.startswith('<') else default}"
        arguments.append(text)
    result = _type(" -> ", signature.return_annotation) if inspect.isfunction(function) else ""
    short = f"({', '.join(arguments)}){result}"
    return short if len(short) <= 90 else "(\n    " + ",\n    ".join(arguments) + f",\n){result}"


def _type(before: str, annotation: Any) -> str:
    """An annotation without the modules of its names; nothing where there is none."""
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return before + re.sub(r"\b[a-z_]+(?:\.[a-z_]+)*\.(?=[A-Za-z])", "", text)


def _text(thing: Any) -> str:
    """A docstring as Markdown: its blocks become lists."""
    lines, shown = inspect.cleandoc(thing.__doc__ or "").splitlines(), []
    block = ""
    for line in lines:
        if line.rstrip(":") in BLOCKS and line.endswith(":"):
            block = line.rstrip(":")
            shown += [f"**{block}**", ""]
        elif block and re.match(r"    \S", line):
            name, colon, rest = line.strip().partition(": ")
            names = colon and re.fullmatch(r"\w+(, \w+)*", name)
            shown.append(f"- `{name}`: {rest}" if names else f"- {line.strip()}")
        elif block and line.strip():
            shown.append(f"  {line.strip()}")
        else:
            shown.append(line)
    return "\n".join(shown)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
