"""Command line: `diffjax --config=C [--workdir=W] [--mode=M]`.

`python -m diffjax.main` is the same. C is a config file, or a config of diffjax's by its name, such
as sid_digits.
`--mode=report` needs no config but that which is in the work directory.

Any value of the config can be overridden, `--config.batch_size=64`; `--mode=show` prints what comes
of it. Exit code 0 means done, 1 that the run can't go on, 2 that the command line isn't right.
"""

import difflib
import gc
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, FieldReference, config_flags
from ml_collections.config_dict import RequiredValueError
from ml_collections.config_flags import config_path

from diffjax.files import paths
from diffjax.runs import config_file
from diffjax.training import background_compilation

FLAGS = flags.FLAGS

_USER_ERRORS = (
    FloatingPointError,
    OSError,
    ValueError,
)
_INTERRUPTED = 128 + signal.SIGINT


class _NumberOrText(flags.ArgumentParser):
    """Parser of fields that take a number or a word, such as a learning rate of "auto"."""

    def parse(self, argument: Any) -> Any:
        try:
            return float(argument)
        except ValueError:
            return argument


config_flags.register_flag_parser_for_type(object, _NumberOrText())
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Config file, or one of diffjax's own by its name, such as sid_cifar; "
    "--config.KEY=VALUE changes it.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; the default is runs/<name of the config file>."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "sample", "evaluate", "check", "show", "report"],
    "What to do; train resumes what it finds, check asks whether the teacher denoises and "
    "rehearses the run, show prints the config and who set what, report writes a page on the run "
    "in workdir, or a comparison of several, with commas between them.",
)
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "Of what --mode=show prints.")
_ALLOW_CHANGED_CONFIG = flags.DEFINE_bool(
    "allow_changed_config", False, "Go on in a work directory of a run with another config."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder that --mode=sample, evaluate and report write to; the default is the run's own.",
)
_REFRESH = flags.DEFINE_integer(
    "refresh",
    0,
    "Seconds after which a page of --mode=report loads itself again while its run lasts; 0 never.",
    lower_bound=0,
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show where an error comes from.")


def main(argv: Sequence[str]) -> int:
    """Do what the flags say, which are parsed already.

    Args:
      argv: the program's name.

    Returns:
      The exit code.
    """
    del argv
    workdir = _WORKDIR.value or default_workdir(_config_filename())
    try:
        is_well = _run(_MODE.value, _CONFIG.value, workdir)
    except KeyboardInterrupt:
        again = "resumes" if _MODE.value == "train" else "starts again"
        print(f"\ninterrupted: the same command {again}", file=sys.stderr)
        return _INTERRUPTED
    except _USER_ERRORS as error:
        if _DEBUG.value or not _is_for_the_user(error):
            raise
        _print_error(str(error))
        return getattr(error, "exit_code", 1)
    return 0 if is_well else 1


def _config_filename() -> str:
    return config_flags.get_config_filename(FLAGS["config"])


def default_workdir(config: str) -> str:
    """Name the run's folder after the config file.

    Args:
      config: path of the file, with `:argument` at its end if it takes one.

    Returns:
      `runs/<stem>`, or `runs/<stem>-<argument>`.
    """
    path, _, argument = config.partition(":")
    return f"runs/{Path(path).stem}" + (f"-{argument.replace('/', '-')}" if argument else "")


def _run(mode: str, config: Any, workdir: str) -> bool:
    """Do what a mode does, and return whether all is well."""
    # Imported late, so that a mistake on the command line is told at once.
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the run's own lines say what matters
    try:
        import jax  # noqa: F401
    except ValueError as error:
        _refuse(f"JAX doesn't take one of its variables in the environment: {error}")
    from diffjax.runs import user_function

    if mode == "report":
        from diffjax.runs import report

        workdirs = report.split(workdir)
        report.report(workdirs, output=_OUTPUT.value or "", refresh=_REFRESH.value)
        return True
    user_function.look_in(config_file.find(_config_filename()).parent)
    if mode == "train":
        from diffjax.runs import starts
        from diffjax.runs.train import train

        starts.asked_by(sys.argv[1:], config=_config_filename(), overridden=_overridden())
        train(config, workdir, allow_changed_config=_ALLOW_CHANGED_CONFIG.value)
    elif mode in ("sample", "evaluate"):
        from diffjax.runs.evaluate import evaluate
        from diffjax.runs.sample import sample

        look = sample if mode == "sample" else evaluate
        look(
            config,
            workdir,
            allow_changed_config=_ALLOW_CHANGED_CONFIG.value,
            output=_OUTPUT.value or "",
        )
    elif mode == "check":
        from diffjax.runs.check import check

        return check(config, workdir)
    else:
        from diffjax.runs.show import show

        show(config, _overridden(), layout=_FORMAT.value)
    return True


def _overridden() -> list[str]:
    """List what the command line set, as dotted names; an item of a tuple is the tuple."""
    paths = map(config_path.split, config_flags.get_override_values(FLAGS["config"]))
    return [".".join(part for part in path if isinstance(part, str)) for path in paths]


def _is_for_the_user(error: Exception) -> bool:
    """Tell a mistake that the user can mend from a bug.

    A ValueError is for the user where code of diffjax raised it, which names a field and what would
    do; from a library's depths it is a bug of diffjax's, and keeps its traceback.
    """
    if not isinstance(error, ValueError):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("diffjax.")


class _ConfigFileParser(flags.ArgumentParser):
    """Parser of --config, in place of ml_collections' own, whose errors are pages of traceback."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments

    def parse(self, argument: str) -> ConfigDict:
        config = config_file.load(argument)
        _check_is_complete(config)
        _check_overrides(self._arguments, config)
        return config.lock()


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line, and say what is wrong with it in one line."""
    arguments = FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    _check_mode(arguments)
    if not _has(arguments, r"help\w*") and not _is_report_alone(arguments):
        arguments = _with_one_config(arguments)
    FLAGS["config"].parser = _ConfigFileParser(arguments)
    try:
        rest = FLAGS(arguments)
    except config_file.ConfigFileError as error:
        if error.__cause__ is None:
            _refuse(str(error))
        if _has(arguments, "debug(=true)?"):
            raise error.__cause__ from None
        _refuse(f"{error}; --debug shows where")
    except config_flags.config_flags.UnsupportedOperationError as error:
        field = re.search(r"field (\S+)", str(error))
        name = field.group(1) if field else "config"
        _refuse(
            f"--{name} can't be set here: the config gives it no type (ConfigDict placeholders do)"
        )
    except flags.Error as error:
        _refuse(config_file.mistyped(str(error)))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if _has(arguments, "debug(=true)?"):
            raise
        _refuse(f"an override can't be followed: {error}")  # an item of a list, say
    if len(rest) > 1:
        _refuse(f"{rest[1]!r} isn't a flag: flags start with --")
    for name in ("workdir", "output"):
        folder = FLAGS[name].value
        if folder is None:
            continue
        if not folder:
            _refuse(f"--{name} is empty: name a folder, or leave it out for the default")
        try:
            FLAGS[name].value = paths.local(paths.expanded(folder))
        except ValueError as error:
            _refuse(f"--{name}={error}")
    if FLAGS["output"].present and _MODE.value not in ("sample", "evaluate", "report"):
        _refuse("--output is for --mode=sample, --mode=evaluate and --mode=report alone")
    if FLAGS["refresh"].present and _MODE.value != "report":
        _refuse("--refresh is for --mode=report alone")
    if FLAGS["format"].present and _MODE.value != "show":
        _refuse("--format is for --mode=show alone")
    return rest


def _has(arguments: Sequence[str], flag: str) -> bool:
    return any(re.fullmatch(f"--?{flag}", argument) for argument in arguments)


def _check_mode(arguments: Sequence[str]) -> None:
    """Refuse a mode that isn't one before a config is asked for, which a report doesn't need."""
    for argument in arguments:
        if match := re.fullmatch("--?mode=(.*)", argument):
            try:
                FLAGS["mode"].parser.parse(match[1])
            except ValueError as error:
                _refuse(f"flag --mode={match[1]}: {error}")


def _is_report_alone(arguments: Sequence[str]) -> bool:
    """Tell whether a report is asked for of a work directory, without a config."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    is_report = any(
        re.fullmatch("--?mode=report", one) or (re.fullmatch("--?mode", one) and two == "report")
        for one, two in pairs
    )
    return is_report and _has(arguments, "workdir(=.*)?") and not _has(arguments, "config(=.*)?")


def _with_one_config(arguments: Sequence[str]) -> list[str]:
    """Keep the last of several --config, in the place of the first, so that overrides are of it."""
    kept, place, last = list(arguments[:1]), None, ""
    rest = iter(arguments[1:])
    for argument in rest:
        match = re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            kept.append(argument)
            continue
        if place is None:
            place = len(kept)
        value = match[1] if match[1] is not None else next(rest, "")
        last = "" if value.startswith("-") else value
    if place is None or not last:
        _refuse("--config is missing: name a config or its file, such as --config=sid_digits")
    return [*kept[:place], f"--config={last}", *kept[place:]]


def _check_overrides(arguments: Sequence[str], config: ConfigDict) -> None:
    known = dict(_fields(config))
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=\[]*)([^=]*)", argument)
        if match is None:
            continue
        field, item = match.groups()
        if not field:
            raise flags.Error(f"{argument} names no field of the config")
        if field not in known:
            if field == "data" and "method" in known and "dataset" not in known:
                raise flags.Error(
                    f"the config has no data, and needs none: its method {known['method']} reads "
                    "no real images"
                )
            nearest = difflib.get_close_matches(field, known, n=1, cutoff=0)
            raise flags.Error(
                f"the config has no {field}"
                + (f": did you mean --config.{nearest[0]}?" if nearest else "")
            )
        if item and not isinstance(known[field], list):
            whole = f"{field}.NAME" if isinstance(known[field], ConfigDict) else field
            raise flags.Error(
                f"--config.{field}{item}: items can't be set one by one; set --config.{whole}"
            )


def _check_is_complete(config: ConfigDict) -> None:
    for name, value in _fields(config):
        if isinstance(value, FieldReference):
            try:
                value.get()
            except RequiredValueError:
                raise flags.Error(
                    f"the config has no value for {name}: give it one, or a placeholder() in place "
                    "of a required_placeholder(), which no flag can set"
                ) from None


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List fields and groups of them by dotted names; what isn't known yet as its reference."""
    for key, value in config.items(preserve_field_references=True):
        yield prefix + key, value
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{key}.")


def _refuse(message: str) -> NoReturn:
    _print_error(message)
    sys.exit(2)


def _print_error(message: str) -> None:
    print("error:", " ".join(message.split()), file=sys.stderr)


def _is_alone() -> bool:
    """Tell whether there are no other processes, who may have to read first how this one ended."""
    import jax

    return jax.process_count() == 1


def _be_the_main_module() -> None:
    """Have --help tell of this module where a command's script is the main one."""
    script = sys.modules["__main__"]
    script.__doc__ = script.__doc__ or __doc__
    for holder in (_CONFIG, _WORKDIR, _MODE, _FORMAT, _ALLOW_CHANGED_CONFIG, _OUTPUT, _DEBUG):
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[holder.name])


def cli() -> NoReturn:
    """Parse the command line, run, and exit."""
    # Tracing makes objects by the million, most of which stay: looking for garbage among them as
    # often as by default takes a quarter of it.
    gc.set_threshold(100_000, 50, 100)
    _be_the_main_module()
    try:
        app.run(main, flags_parser=_parse_flags)
    except KeyboardInterrupt:  # while flags are parsed
        print("\ninterrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        # A compilation is for nobody now, and so is what was asked of a device, amid which Python's
        # own ending can crash.
        is_busy = background_compilation.is_compiling() or end.code == _INTERRUPTED
        if is_busy and _is_alone():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else bool(end.code))
        raise
    raise AssertionError("app.run exits")  # pragma: no cover


if __name__ == "__main__":
    cli()
