"""Command line: `python -m diffjax.main --config=C [--workdir=W] [--mode=train|sample|evaluate]`.

Any value of the config can be overridden, `--config.batch_size=64`. Exit code 0 means done, 1 that
the run can't go on, 2 that the command line isn't right.
"""

import difflib
import gc
import os
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from diffjax.training import background_compilation

FLAGS = flags.FLAGS

_USER_ERRORS = (
    FloatingPointError,
    OSError,
    ValueError,
)

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Config file, such as configs/sid_cifar.py; --config.KEY=VALUE changes it.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; the default is runs/<name of the config file>."
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "sample", "evaluate"], "What to do; train resumes what it finds."
)
_ALLOW_CHANGED_CONFIG = flags.DEFINE_bool(
    "allow_changed_config", False, "Train on in a work directory of a run with another config."
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show where an error comes from.")


def main(argv: Sequence[str]) -> int:
    """Does what the flags say, which are parsed already.

    Args:
      argv: the program's name.

    Returns:
      The exit code.
    """
    del argv
    workdir = _WORKDIR.value or default_workdir(config_flags.get_config_filename(FLAGS["config"]))
    try:
        _run(_MODE.value, _CONFIG.value, workdir)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command resumes", file=sys.stderr)
        return 130
    except _USER_ERRORS as error:
        if _DEBUG.value or not _is_for_the_user(error):
            raise
        _print_error(str(error))
        return 1
    return 0


def default_workdir(config_file: str) -> str:
    """Names the run's folder after the config file.

    Args:
      config_file: path, with `:argument` at its end if the config takes one.

    Returns:
      `runs/<stem>`, or `runs/<stem>-<argument>`.
    """
    path, _, argument = config_file.partition(":")
    return f"runs/{Path(path).stem}" + (f"-{argument.replace('/', '-')}" if argument else "")


def _run(mode: str, config: Any, workdir: str) -> None:
    # Imported late, so that a mistake on the command line is told at once.
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the run's own lines say what matters
    if mode == "train":
        from diffjax.runs.train import train

        train(config, workdir, allow_changed_config=_ALLOW_CHANGED_CONFIG.value)
    else:
        from diffjax.runs import modes

        {"sample": modes.sample, "evaluate": modes.evaluate}[mode](config, workdir)


def _is_for_the_user(error: Exception) -> bool:
    """Whether diffjax said it; a ValueError from a library's depths keeps its traceback."""
    if not isinstance(error, ValueError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("diffjax.")


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line, and says what is wrong with it in one line."""
    arguments = FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    asks_for_help = any(re.fullmatch(r"--?help\w*", argument) for argument in arguments)
    if not asks_for_help:
        _check_overrides(arguments, _load_config(_find_config(arguments)))
    try:
        rest = FLAGS(argv)
    except config_flags.config_flags.UnsupportedOperationError as error:
        field = re.search(r"field (\S+)", str(error))
        name = field.group(1) if field else "config"
        _refuse(
            f"--{name} can't be set here: the config gives it no type (ConfigDict placeholders do)"
        )
    except flags.Error as error:
        _refuse(str(error))
    if len(rest) > 1:
        _refuse(f"{rest[1]!r} isn't a flag: flags start with --")
    return rest


def _find_config(arguments: Sequence[str]) -> str:
    for index, argument in enumerate(arguments):
        if match := re.fullmatch(r"--?config=(.+)", argument):
            return match.group(1)
        if re.fullmatch(r"--?config", argument) and index + 1 < len(arguments):
            return arguments[index + 1]
    _refuse("--config is missing: name a config file, such as --config=configs/sid_cifar.py")


def _load_config(config_file: str) -> ConfigDict:
    path, _, argument = config_file.partition(":")
    if not Path(path).is_file():
        _refuse(f"there is no config file {path}")
    try:
        get_config = runpy.run_path(path).get("get_config")
    except Exception as error:  # a config file may fail in any way
        _refuse_config(path, error)
    if get_config is None:
        _refuse(f"{path} defines no get_config()")
    try:
        config = get_config(argument) if argument else get_config()
    except Exception as error:
        _refuse_config(path, error)
    if not isinstance(config, ConfigDict):
        _refuse(f"get_config() of {path} returned {type(config).__name__} instead of a ConfigDict")
    return config


def _check_overrides(arguments: Sequence[str], config: ConfigDict) -> None:
    known = list(_keys(config))
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=\[]+)", argument)
        if match and match.group(1) not in known:
            nearest = difflib.get_close_matches(match.group(1), known, n=1, cutoff=0)
            _refuse(
                f"the config has no {match.group(1)}"
                + (f": did you mean --config.{nearest[0]}?" if nearest else "")
            )


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{key}.")


def _refuse_config(path: str, error: Exception) -> NoReturn:
    if any(re.fullmatch(r"--?debug(=true)?", argument) for argument in sys.argv):
        raise error
    _refuse(f"{path} fails with {type(error).__name__}: {error}; --debug shows where")


def _refuse(message: str) -> NoReturn:
    _print_error(message)
    sys.exit(2)


def _print_error(message: str) -> None:
    print("error:", " ".join(message.split()), file=sys.stderr)


def _is_alone() -> bool:
    """Whether there are no other processes, who may have to read first how this one ended."""
    import jax

    return jax.process_count() == 1


def cli() -> NoReturn:
    """Parses the command line, runs, and exits."""
    # Tracing makes objects by the million, most of which stay: looking for garbage among them as
    # often as by default takes a quarter of it.
    gc.set_threshold(100_000, 50, 100)
    try:
        app.run(main, flags_parser=_parse_flags)
    except SystemExit as end:
        if background_compilation.is_compiling() and _is_alone():  # for nobody
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else bool(end.code))
        raise
    raise AssertionError("app.run exits")  # pragma: no cover


if __name__ == "__main__":
    cli()
