"""The command line: one verb per file, each parses, calls one function and prints.

To add a verb: its file with one function of its name (import_ for `import`, a word that Python keeps to itself), and
its row in VERBS. A verb's file imports nothing heavy at its top, so that `featherseg --help` answers at once.
"""

import errno
import io
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections import Counter
from importlib import import_module
from keyword import iskeyword
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from featherseg._version import __version__
from featherseg.core.errors import ConfigError, FeathersegError, NoDataset, UntrustedFile
from featherseg.core.machine import one_command
from featherseg.core.storage import refuse_address
from featherseg.core.wording import ESCAPES, visible

VERBS = {  # in the order of the work; what `featherseg --help` says of each
    "demo": "Run the whole job on synthetic scenes.",
    "check": "Check a dataset for faults and fix them.",
    "audit": "Find masks that are probably wrong.",
    "convert": "Convert annotations of tools, and back.",
    "prepare": "Decode a dataset once, to read it faster.",
    "fit": "Find and train the best model for a limit.",
    "train": "Train a model by a recipe.",
    "import": "Import published weights as a run.",
    "evaluate": "Evaluate a run, a file or predictions.",
    "predict": "Predict masks of images and videos.",
    "serve": "Serve models over HTTP, with a web page.",
    "export": "Export to ONNX, OpenVINO, int8 and others.",
    "compare": "Compare models on your own data.",
    "sweep": "Train several models alike and compare.",
    "paper": "Count a paper's models, row by row.",
    "benchmark": "Measure latency of models and files.",
    "cost": "Count parameters and MACs.",
    "push": "Share a run on the Hugging Face Hub.",
    "models": "List the models.",
    "weights": "List and fetch initial weights.",
    "report": "Write a run's report as one page.",
    "doctor": "Check the installation and this machine.",
}

PIPE_CLOSED, USER_ERROR, STOPPED = 1, 2, 130
DISK_ERRORS = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    getattr(errno, "EDQUOT", errno.ENOSPC),
}


ADDRESSES = {"allow_origin", "cluster", "licence", "token"}
"""Options whose values may be addresses of any kind."""


class _Command(TyperCommand):
    """A verb.

    Raises ConfigError where an option of one value is given twice, as only the last would count, and where an address
    is given that is not read: Path would make a local folder of it, https:/HOST.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for argument in (one for one in self.params if isinstance(one, TyperArgument)):
            argument.metavar = (
                argument.metavar or str(argument.name).upper()
            )  # as the help's sentences call it

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        texts, _, order = self.make_parser(ctx).parse_args(list(args))
        for value in (value for name, value in texts.items() if name not in ADDRESSES):
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str):
                    refuse_address(text)
        given = Counter(order)
        for option, times in given.items():
            if (
                times > 1
                and isinstance(option, TyperOption)
                and not (option.is_flag or option.multiple)
            ):
                listed = ", separated by commas" if (option.metavar or "").endswith(",...") else ""
                values = "all its values" if listed else "its value"
                raise ConfigError(
                    f"{option.opts[0]} was given {times} times. Give it once, with {values}{listed}."
                )
        return super().parse_args(ctx, args)


class _App(typer.Typer):
    """Called, it builds the verb that the command line names alone: the options of all take a tenth of a second."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        named = [command for command in self.registered_commands if command.name in sys.argv[1:2]]
        self.registered_commands = named or self.registered_commands
        return super().__call__(*args, **options)


def build_app() -> typer.Typer:
    """The application with every verb of VERBS."""
    app = _App(
        help="Light semantic and panoptic segmentation: train, evaluate and export small models on your own images.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for verb, line in VERBS.items():
        name = f"{verb}_" if iskeyword(verb) else verb
        app.command(verb, cls=_Command, short_help=line)(
            getattr(import_module(f"{__name__}.{name}"), name)
        )
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"featherseg {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `featherseg` itself; the verbs have their own."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 done with faults found, or a bug, 2 a user's slip, 130 stopped by Ctrl-C."""
    _messages_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors=ESCAPES
        )  # a name that the terminal's encoding lacks ends nothing
    try:
        with one_command():
            code = _run()
        sys.stdout.flush()
    except BrokenPipeError:  # `featherseg models | head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except Exception:
        sys.excepthook = _show_bug  # here: typer sets its own when it is called
        raise
    sys.exit(code)


def _messages_to_stderr() -> None:
    """stdout is for results; messages of the package (a licence, a tile size) go to stderr."""
    logger = logging.getLogger("featherseg")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Visible())
    logger.handlers = [handler]
    if logging.lastResort:  # warnings of other packages' loggers
        logging.lastResort.setFormatter(_Visible())
    warnings.formatwarning = _visible_warning


def _visible_warning(*about: Any, **more: Any) -> str:
    return visible(_FORMAT_WARNING(*about, **more))


_FORMAT_WARNING = warnings.formatwarning


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback of an error that nobody expected; names in its message may come from others."""
    print(visible("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


class _Visible(logging.Formatter):
    """The message, with nothing in it that would steer the terminal: names in it come from others."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _run() -> int:
    """Run the verb that the command line names; -> the exit code. Errors for users become one message on stderr."""
    try:
        build_app()(prog_name="featherseg")
    except NoDataset as error:
        from featherseg.converters import next_step  # here: other commands start faster without it

        return _fail(f"{error}{next_step(error.place)}")
    except UntrustedFile as error:
        again = shlex.join(["featherseg", *sys.argv[1:2], "--trust", *sys.argv[2:]])
        return _fail(f"{error.found} If you trust its origin, run:\n{again}")
    except FeathersegError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _fail(f"{error.strerror}: {error.filename}. Choose another location.")
        if error.errno in DISK_ERRORS:
            return _fail(
                f"{error.strerror}: {error.filename or 'while writing'}. Make room, or check the permissions."
            )
        raise
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as finished:
        return _stopped() if finished.code == STOPPED else int(finished.code or 0)
    return 0


def _fail(message: str) -> int:
    print(f"error: {visible(message)}", file=sys.stderr)
    return USER_ERROR


def _stopped() -> int:
    print("stopped", file=sys.stderr)
    return STOPPED
