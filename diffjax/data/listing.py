"""Files of a folder or zip: which are images, which hold their labels, and what is left out.

Nothing is left out silently. What could be an image and isn't read is an error; the rest is told.
"""

import dataclasses
import os
import posixpath
import stat
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

LABELS = "dataset.json"
IMAGES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif")
ARRAYS = (".npy",)
_WORDS = {IMAGES: "PNG or JPEG images", ARRAYS: "arrays of latents, .npy,"}
# What lies beside images and holds none: notes, tables, and what file managers leave.
_NOTES = (
    *(".txt", ".md", ".rst", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".log"),
    *(".db", ".ini"),
)
_HIDDEN, _OTHER = "hidden files", "files that are no images"
_LOOPS = "links to folders that they lie in"

Place = TypeVar("Place")  # of a file: its path in a folder, or an entry of a zip


@dataclasses.dataclass(frozen=True)
class Found(Generic[Place]):
    """Content of a folder or zip, by relative names with forward slashes.

    Attributes:
      files: where each file is, in the order of EDM's loader.
      problems: what is wrong with an entry that can't be read, as text that follows its name.
      loops: links to folders that they lie in, whose images are there once already.
      folders: those directly below the top that aren't hidden.
    """

    files: Mapping[str, Place]
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    loops: Sequence[str] = ()
    folders: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files of a data set, sorted by what they are.

    Attributes:
      images: names of the images, in the order of EDM's loader.
      labels: name of the file of labels; "" for none.
      left_out: names of all other files, by what they are.
    """

    images: list[str]
    labels: str
    left_out: dict[str, list[str]]

    @property
    def label_names(self) -> list[str]:
        """Names of the images as the file of labels gives them, relative to it."""
        start = len(self.labels.removesuffix(LABELS))
        return [name[start:] for name in self.images]


def of_zip(archive: zipfile.ZipFile) -> Found[zipfile.ZipInfo]:
    """List the files of a zip, whose names may have backslashes, as some tools on Windows write.

    Raises:
      ValueError: without the zip's name, if two files have one name.
    """
    entries = sorted(archive.infolist(), key=lambda info: info.filename)
    entries = [info for info in entries if not info.filename.endswith(("/", "\\"))]
    files = _by_name((info.filename, info) for info in entries)
    links = (name for name, info in files.items() if stat.S_ISLNK(info.external_attr >> 16))
    return Found(files, dict.fromkeys(links, "is a link, which a zip can't follow; store the file"))


def of_folder(folder: Path) -> Found[str]:
    """List the files of a folder and of all folders in it, through links.

    Raises:
      ValueError: without the folder's name, if two files have one name.
    """
    files: list[str] = []
    problems: dict[str, str] = {}
    loops: list[str] = []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    folders: list[str] = []
    while waiting:
        name, above = waiting.pop()
        try:
            status = os.stat(folder / name)
            here = (status.st_dev, status.st_ino)
            if here in above:
                loops.append(name)
                continue
            with os.scandir(folder / name) as listed:
                entries = list(listed)
        except OSError as error:
            problems[name or "."] = f"can't be read ({error.strerror or error})"
            continue
        for entry in entries:
            inside = f"{name}/{entry.name}" if name else entry.name
            try:
                if entry.is_dir():
                    waiting.append((inside, above | {here}))
                    folders += [] if name or _is_hidden(inside) else [inside]
                elif entry.is_file():
                    files.append(inside)
                elif entry.is_symlink():
                    problems[inside] = "is a link to nothing; mend it or take it out"
                else:
                    problems[inside] = "is neither a file nor a folder; take it out"
            except OSError as error:
                problems[inside] = f"can't be read ({error.strerror or error})"
    return Found(_by_name((name, name) for name in sorted(files)), problems, sorted(loops), folders)


def sort(found: Found[Place], suffixes: tuple[str, ...] = IMAGES) -> Listing:
    """Tell images, their labels and all else apart, by name.

    Args:
      found: all files.
      suffixes: of the images, `IMAGES`; or `ARRAYS` of latents, which stand for images then.

    Raises:
      ValueError: naming a file that can't be read, or may be an image of another kind.
    """
    left_out: dict[str, list[str]] = {_LOOPS: list(found.loops), _HIDDEN: [], _OTHER: []}
    images, labels = [], []
    for name in (*found.files, *found.problems.keys() - found.files.keys()):
        suffix = posixpath.splitext(name)[1].lower()
        if _is_hidden(name):
            left_out[_HIDDEN].append(name)
        elif name in found.problems:
            raise ValueError(f"{name!r} {found.problems[name]}")
        elif posixpath.basename(name) == LABELS:
            labels.append(name)
        elif suffix in suffixes:
            images.append(name)
        elif suffix in _NOTES:
            left_out[_OTHER].append(name)
        elif suffixes == IMAGES:
            latents = "; arrays of latents are for a teacher of latents" if suffix in ARRAYS else ""
            raise ValueError(f"{name!r} is neither PNG nor JPEG; take it out{latents}")
        elif suffix in IMAGES:
            raise ValueError(
                f"{name!r} is an image, and latents are needed: EDM2's `dataset_tool.py encode` "
                "makes them"
            )
        else:
            raise ValueError(f"{name!r} is no .npy, as latents are; take it out")
    if not images:
        raise ValueError(f"no {_WORDS[suffixes]} in it")
    own = _labels(labels, images)
    left_out[_OTHER] += [name for name in labels if name != own]
    return Listing(images, own, left_out)


def describe(left_out: Mapping[str, Sequence[str]]) -> str:
    """Say how many files of what kind were left out; "" for none."""
    parts = [
        f"{kind} ({len(each)}, such as {each[0]!r})" for kind, each in left_out.items() if each
    ]
    return f"left out: {', '.join(parts)}" if parts else ""


def plain(name: str) -> str:
    """Return a relative name with forward slashes and without "./", as EDM looks labels up.

    Args:
      name: as a folder, a zip or a file of labels gives it.
    """
    name = name.replace("\\", "/")
    is_plain = "//" not in name and "/./" not in name and not name.startswith("./")
    return name if is_plain else posixpath.join(*(p for p in name.split("/") if p not in ("", ".")))


def _labels(labels: Sequence[str], images: Sequence[str]) -> str:
    """Choose the file of labels: the one at the top, or else the one above all images."""
    if LABELS in labels or not labels:
        return LABELS if labels else ""
    folder = labels[0].removesuffix(LABELS)
    foreign = [*labels[1:], *(name for name in images if not name.startswith(folder))]
    if foreign:
        raise ValueError(
            f"{labels[0]!r} has no labels for {foreign[0]!r}, which lies elsewhere; write one "
            f"{LABELS} at the top, for all images"
        )
    return labels[0]


def _by_name(files: Iterable[tuple[str, Place]]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for raw, place in files:
        name = plain(raw)
        if name in found:
            raise ValueError(f"two of its files have one name, {name!r}")
        found[name] = place
    return found


def _is_hidden(name: str) -> bool:
    if "." not in name[:1] and "/." not in name and "__MACOSX" not in name:
        return False
    parts = name.split("/")
    return any(p == "__MACOSX" or (p.startswith(".") and p not in (".", "..")) for p in parts)
