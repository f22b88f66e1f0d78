"""Usage reports of other packages, switched off before any of them is imported; SECURITY.md lists them."""

import os
import sys

OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NNCF_CI": "1",  # NNCF reads it for its telemetry alone
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
"""Environment variable -> its value that stops the package's reports."""


def switch_off() -> None:
    """Set every variable of OFF that the user has not set, and keep OpenVINO from importing its reporter.

    Child processes inherit the variables. OpenVINO knows no variable, but reports nothing without openvino_telemetry.
    """
    for variable, value in OFF.items():
        os.environ.setdefault(variable, value)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it raises ImportError
