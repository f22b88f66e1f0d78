"""Silence converters, which print, log and warn; their errors become ExportError."""

import errno
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch

from featherseg.core.errors import ExportError, FeathersegError

DISK_REFUSES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""OSError numbers for a full or missing disk; any other is the converter's own error."""

EVERY_SIZE = "Every layer must run at any batch, height and width."


@contextmanager
def quiet(failure: str, *loggers: str, advice: str = "") -> Iterator[None]:
    """Run a converter without gradients, output or warnings; the named loggers pass on only errors.

    Any exception becomes ExportError("failure: its first line. advice"), except the OSError of a
    disk that refuses, for which `export` reports where drafts are written.
    """
    muted = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in muted]
    for logger in muted:
        logger.setLevel(logging.ERROR)
    try:
        # torch.export seeds torch's own generator
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            torch.no_grad(),
            torch.random.fork_rng([]),
        ):
            warnings.simplefilter("ignore")
            yield
    except FeathersegError:
        raise
    except (
        Exception
    ) as error:  # converters raise many kinds, also OSError if a part of them is missing
        if isinstance(error, OSError) and error.errno in DISK_REFUSES:
            raise
        behind: BaseException | None = error
        while behind is not None:  # torch.export wraps Ctrl-C into its own error
            if isinstance(behind, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            behind = behind.__cause__ or behind.__context__
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(
            f"{failure} ({type(error).__name__}: {first}). {advice}".rstrip()
        ) from error
    finally:
        for logger, level in zip(muted, levels, strict=True):
            logger.setLevel(level)
