"""The command line: one file per verb, which parses, calls one function and prints the result.

To add a verb: a file with one function of its name (import_ for `import`, which Python reserves),
and a row in VERBS. A verb's file imports nothing heavy at its top, so that `featherseg --help`
answers at once.
"""

import errno
import functools
import inspect
import io
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from keyword import iskeyword
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from featherseg._version import __version__
from featherseg.cli.hints import refuse_foreign_options, refuse_foreign_verb
from featherseg.core.errors import (
    OF_TORCH,
    ConfigError,
    FeathersegError,
    NoDataset,
    UntrustedFile,
    missing_torch,
)
from featherseg.core.machine import one_command
from featherseg.core.storage import refuse_address
from featherseg.core.wording import ESCAPES, visible

VERBS = {
    "demo": ("Run the whole job on synthetic scenes.", "-o demo"),
    "check": ("Check a dataset for faults and fix them.", "yard --write"),
    "audit": ("Find masks that are probably wrong.", "yard --minutes 30 -o audit.html"),
    "convert": ("Convert annotations of tools, and back.", "annotated.zip -o yard"),
    "prepare": ("Decode a dataset once, to read it faster.", "yard"),
    "fit": (
        "Find and train the best model for a limit.",
        "--data yard --max-ms 20 --hours 2 -o runs/yard-20ms",
    ),
    "train": ("Train a model by a recipe.", "frm-lite0-light --data yard -o runs/yard"),
    "import": (
        "Import published weights as a run.",
        "x.pth --model pidnet-s --data cityscapes -o run",
    ),
    "evaluate": ("Evaluate a run, a file or predictions.", "runs/yard"),
    "predict": ("Predict masks of images and videos.", "runs/yard photos -o masks"),
    "serve": ("Serve models over HTTP, with a web page.", "runs/yard"),
    "export": ("Export to ONNX, OpenVINO, int8 and others.", "runs/yard --format onnx,openvino"),
    "compare": ("Compare models on your own data.", "runs/a runs/b -o compare.html"),
    "sweep": (
        "Train several models alike and compare.",
        "my.toml --models pidnet-s,rsp-lite0 -o runs",
    ),
    "paper": ("Recount a paper's tables, or train them.", "frm"),
    "benchmark": ("Measure latency of models and files.", "runs/yard -o latency.html"),
    "cost": ("Count parameters and MACs.", "frm-lite0-light --image-size 512x1024"),
    "push": ("Share a run on the Hugging Face Hub.", "runs/yard hf://ORG/NAME"),
    "models": ("List the models.", ""),
    "weights": ("List and fetch initial weights.", "get van-b1"),
    "report": ("Write a run's report as one page.", "runs/yard -o report.html"),
    "doctor": ("Check the installation and this machine.", ""),
}
"""Verb, in the order of the work -> its line in `featherseg --help`, arguments of an example."""

PROGRAM, COMPLETE = "featherseg", "_FEATHERSEG_COMPLETE"
SHELLS = ("bash", "zsh", "fish")

PIPE_CLOSED, USER_ERROR, STOPPED = 1, 2, 130
DISK_ERRORS = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    getattr(errno, "EDQUOT", errno.ENOSPC),
}

ANY_ADDRESS = {"allow_origin", "cluster", "licence", "token"}
"""Options whose values may be addresses of any kind."""


class _Command(TyperCommand):
    """A verb, with stricter parsing than click's.

    Raises ConfigError for an option of one value that is given twice, because only the last would
    count, and for an address that cannot be read, because Path would make a folder https:/HOST.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            if isinstance(param, TyperArgument):  # RUN, as the sentences of the help call it
                param.metavar = param.metavar or str(param.name).upper()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of a verb. Raises ConfigError."""
        if ctx.resilient_parsing:  # a shell completes an unfinished command
            return super().parse_args(ctx, args)
        known = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        refuse_foreign_options(str(self.name), args, known)
        texts, _, order = self.make_parser(ctx).parse_args(list(args))
        for name, value in texts.items():
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str) and name not in ANY_ADDRESS:
                    refuse_address(text)
        for option, times in Counter(order).items():
            once = isinstance(option, TyperOption) and not (option.is_flag or option.multiple)
            if once and times > 1:
                is_list = (option.metavar or "").endswith(",...")
                values = "all its values, separated by commas" if is_list else "its value"
                raise ConfigError(
                    f"{option.opts[0]} was given {times} times. Give it once, with {values}."
                )
        remaining = super().parse_args(ctx, args)
        param: Any
        for param in self.params:
            # typer 0.16 with click 8.3 and later takes None for a value
            if param.required and ctx.params[param.name] is None:
                ctx.fail(f"Missing {param.param_type_name} {param.get_error_hint(ctx)}.")
        return remaining


class _App(typer.Typer):
    """When called, it builds only the verb that is used; the options of all verbs take 0.1 s."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        used = [command for command in self.registered_commands if command.name in sys.argv[1:2]]
        self.registered_commands = used or self.registered_commands
        return super().__call__(*args, **options)


def build_app() -> typer.Typer:
    """Return the application with every verb of VERBS."""
    app = _App(
        help="Light semantic and panoptic segmentation: train, evaluate and export small models on "
        "your own images.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for verb, (line, arguments) in VERBS.items():
        name = f"{verb}_" if iskeyword(verb) else verb
        example = f"Example: featherseg {verb} {arguments}".rstrip()
        command = app.command(verb, cls=_Command, short_help=line, epilog=example)
        command(_with_detail(getattr(import_module(f"{__name__}.{name}"), name)))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"featherseg {__version__}")
        raise typer.Exit


def _print_completion(shell: str | None) -> None:
    if shell is None:
        return
    if shell not in SHELLS:
        raise ConfigError(f"--show-completion {shell!r}: expected {', '.join(SHELLS)}.")
    from typer.completion import get_completion_script

    print(get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE, shell=shell))
    raise typer.Exit


def _with_detail(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function of a verb with the options `-q` and `-v`, which every verb has."""

    @functools.wraps(function)
    def verb(*args: Any, quiet: bool, verbose: bool, **options: Any) -> None:
        if quiet and verbose:
            raise ConfigError("-q and -v exclude each other. Leave out one.")
        if quiet or verbose:
            _set_level(logging.WARNING if quiet else logging.DEBUG)
        function(*args, **options)

    signature = inspect.signature(function, eval_str=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    detail = [
        inspect.Parameter(name, kind, default=False, annotation=Annotated[bool, option])
        for name, option in (
            ("quiet", typer.Option("-q", "--quiet", help="Print results and warnings only.")),
            ("verbose", typer.Option("-v", "--verbose", help="Print times and tracebacks too.")),
        )
    ]
    parameters = [*signature.parameters.values(), *detail]
    vars(verb)["__signature__"] = signature.replace(parameters=parameters)
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb


def _set_level(level: int) -> None:
    logger = logging.getLogger("featherseg")
    logger.setLevel(level)
    if level == logging.DEBUG:
        for handler in logger.handlers:
            handler.setFormatter(_Visible("%(asctime)s %(message)s"))


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="|".join(SHELLS),
            callback=_print_completion,
            is_eager=True,
            help="Print the script by which a shell completes commands, and exit.",
        ),
    ] = None,
) -> None:
    """Options of `featherseg` itself; the verbs have their own."""


def main() -> None:
    """Run the command line, and exit.

    Exit codes: 0 done; 1 done with faults found, or a bug; 2 a user's error; 130 stopped by Ctrl-C.
    """
    _messages_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the terminal's encoding lacks are escaped instead of raising an error
        sys.stdout.reconfigure(errors=ESCAPES)
    try:
        with one_command():
            code = _run()
        sys.stdout.flush()
    except BrokenPipeError:  # `featherseg models | head -1`: the reader is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except Exception:
        sys.excepthook = _show_bug  # set here, because typer sets its own when it is called
        raise
    sys.exit(code)


def _messages_to_stderr() -> None:
    """Send messages of the package (a licence, a tile size) to stderr; stdout is for results."""
    logger = logging.getLogger("featherseg")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Visible())
    logger.handlers = [handler]
    if logging.lastResort:  # warnings of other packages' loggers
        logging.lastResort.setFormatter(_Visible())
    warnings.formatwarning = _visible_warning


def _visible_warning(*args: Any, **options: Any) -> str:
    return visible(_FORMAT_WARNING(*args, **options))


_FORMAT_WARNING = warnings.formatwarning


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a bug, escaped: names in its message may come from others."""
    print(visible("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


class _Visible(logging.Formatter):
    """Escapes what would control the terminal: names in messages come from others."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the escaped message."""
        return visible(super().format(record))


def _run() -> int:
    """Run the verb on the command line and return the exit code; errors become one message."""
    try:
        refuse_foreign_verb(sys.argv[1:], VERBS)
        if COMPLETE in os.environ:
            from typer.completion import completion_init

            completion_init()
        build_app()(prog_name=PROGRAM)
    except NoDataset as error:
        from featherseg.converters import next_step  # here, so that other commands start faster

        return _fail(f"{error}{next_step(error.place)}")
    except UntrustedFile as error:
        again = shlex.join(["featherseg", *sys.argv[1:2], "--trust", *sys.argv[2:]])
        return _fail(f"{error.found} If you trust its origin, run:\n{again}")
    except FeathersegError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name in OF_TORCH:
            return _fail(str(missing_torch(f"`featherseg {sys.argv[1]}`", error.name)))
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _fail(f"{error.strerror}: {error.filename}. Choose another location.")
        if error.errno in DISK_ERRORS:
            return _fail(
                f"{error.strerror}: {error.filename or 'while writing'}. Make room, or check the "
                "permissions."
            )
        raise
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as finished:
        return _stopped() if finished.code == STOPPED else int(finished.code or 0)
    return 0


def _fail(message: str) -> int:
    if logging.getLogger("featherseg").level == logging.DEBUG and sys.exc_info()[0]:
        print(visible(traceback.format_exc()), end="", file=sys.stderr)
    print(f"error: {visible(message)}", file=sys.stderr)
    return USER_ERROR


def _stopped() -> int:
    print("stopped", file=sys.stderr)
    return STOPPED
