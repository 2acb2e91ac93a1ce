"""The report mode: one page of HTML on a run, or on several beside each other."""

from collections.abc import Callable, Sequence
from pathlib import Path

from diffjax.files import paths, writing
from diffjax.files.progress import say
from diffjax.reports import page
from diffjax.runs import gathering, results
from diffjax.runs.user_function import RefusedError

FILE = "report.html"
COMPARISON_FILE = "comparison.html"
_HEAD = 65_536  # bytes of a page in which its title comes


def report(workdirs: Sequence[str], *, output: str = "", refresh: int = 0) -> Path:
    """Write the report of a run, or a page that compares several, and print where it is.

    Nothing else in a work directory is changed, so that a run may be under way there.

    Args:
      workdirs: of the runs.
      output: folder to write to; "" is the first work directory.
      refresh: seconds after which the page loads itself again while a run lasts; 0 never.

    Returns:
      The page's path: `report.html`, of several runs `comparison.html`.

    Raises:
      RefusedError: naming a work directory that holds no run.
      OSError: if the page can't be written.
    """
    folders = [_existing(each) for each in workdirs]
    if len(set(map(Path.resolve, folders))) < len(folders):
        raise RefusedError("--workdir names one work directory twice: name others, or one alone")
    target = results.folder(str(folders[0]), output)
    budget = gathering.PICTURES // len(folders)
    runs = [gathering.run(folder, budget=budget) for folder in folders]
    if len(runs) == 1:
        path, text = target / FILE, page.of_run(runs[0], refresh=refresh)
    else:
        path, text = target / COMPARISON_FILE, page.of_runs(runs, refresh=refresh)
    _write(path, text)
    say(f"report: {path}")
    return path


def at_the_end(workdir: Path, warn: Callable[[str], None]) -> Path | None:
    """Write the report of a run that has just ended, which never makes it fail.

    Args:
      workdir: of the run.
      warn: takes a line if it can't be written.

    Returns:
      The page's path; None if it can't be written.
    """
    path = workdir / FILE
    try:
        _write(path, page.of_run(gathering.run(workdir, has_ended=True)))
    except Exception as error:  # whatever it is, the run itself is done
        text = " ".join(str(error).split())
        warn(f"warning: no report is written: {type(error).__name__}: {text}")
        return None
    return path


def _write(path: Path, text: str) -> None:
    """Write a page, in the place of an earlier one of diffjax's alone."""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if page.MARK.encode() not in head:
            raise RefusedError(f"{path} is there, and isn't diffjax's: name a folder with --output")
    writing.write_text(path, text)


def split(workdir: str) -> list[str]:
    """List the work directories that `--workdir` names, with commas between them.

    Args:
      workdir: the flag's value; a folder that has commas in its name is one.

    Raises:
      ValueError: if there is none, or the home directory that one starts with isn't there.
    """
    if "," not in workdir or Path(workdir).exists():
        return [workdir]
    found = [paths.expanded(each.strip()) for each in workdir.split(",") if each.strip()]
    if not found:
        raise RefusedError(f"--workdir={workdir} names no folder")
    return found


def _existing(workdir: str) -> Path:
    folder = Path(workdir)
    if "://" in workdir:
        raise RefusedError(f"--workdir={workdir} is a URL: mount the store and name the path")
    if not folder.is_dir():
        raise RefusedError(f"--workdir={workdir}: there is no such folder")
    if not gathering.has_run(folder):
        raise RefusedError(
            f"--workdir={workdir} holds no run: name the folder that --mode=train was given"
        )
    return folder
