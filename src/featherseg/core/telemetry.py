"""Switch off other packages' usage reports before their import; see SECURITY.md."""

import os
import sys

OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NNCF_CI": "1",  # NNCF reads it only for its telemetry
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
"""Environment variable -> its value that stops the package's reports."""


def switch_off() -> None:
    """Set every variable of OFF that the user has not set, and block OpenVINO's reporter.

    Child processes inherit the variables. OpenVINO has no variable, but reports nothing without
    openvino_telemetry.
    """
    for variable, value in OFF.items():
        os.environ.setdefault(variable, value)
    # Importing it raises ImportError
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
