"""Converters of others print, log, warn and raise about their own insides: an ExportError is all that is passed on."""

import errno
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch

from featherseg.core.errors import ExportError, FeathersegError

DISK_REFUSES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What an OSError tells of where there is no room for a file; any other is the converter's own."""

EVERY_SIZE = "Every layer must run at any batch, height and width."


@contextmanager
def quiet(failure: str, *loggers: str, advice: str = "") -> Iterator[None]:
    """Without gradients; nothing is printed or warned, and the named loggers pass on errors only.

    Whatever is raised becomes ExportError("failure: its first line. advice"), but for a disk that refuses: of that
    OSError `export` tells where drafts are written.
    """
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.ERROR)
    try:
        # torch.export seeds torch's own generator
        with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad(), torch.random.fork_rng([]):
            warnings.simplefilter("ignore")
            yield
    except FeathersegError:
        raise
    except Exception as error:  # converters raise dozens of kinds, OSError among them where a part of them is missing
        if isinstance(error, OSError) and error.errno in DISK_REFUSES:
            raise
        behind: BaseException | None = error
        while behind is not None:  # torch.export makes a failure of its own of Ctrl-C
            if isinstance(behind, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            behind = behind.__cause__ or behind.__context__
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(f"{failure} ({type(error).__name__}: {first}). {advice}".rstrip()) from error
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)
