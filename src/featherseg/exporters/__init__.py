"""Export a trained model to files for other runtimes; a file must give the model's masks.

To add a format: its module with `write(job)`, its row in EXPORTERS (exporters/formats.py), a test.
"""

from featherseg.exporters.formats import EXPORTERS, Format
from featherseg.exporters.pipeline import ExportSettings, export, export_formats
from featherseg.exporters.report import ExportReport

__all__ = ["EXPORTERS", "ExportReport", "ExportSettings", "Format", "export", "export_formats"]
