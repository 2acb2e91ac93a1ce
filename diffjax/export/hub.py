"""Pushing an exported file, its card and a page to the Hugging Face hub."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffjax.convert import catalogue
from diffjax.export import card as card_lib
from diffjax.export import packages
from diffjax.runs.user_function import RefusedError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The hub's words for licences; what isn't among them is said in the card.
_LICENCES = {
    card_lib.OWN_LICENCE: "apache-2.0",
    catalogue.EDM_LICENCE: "cc-by-nc-sa-4.0",
    card_lib.UNKNOWN: "unknown",
}


@dataclasses.dataclass(frozen=True)
class Upload:
    """Files and a page for a repository.

    Attributes:
      repository: "user/name".
      paths: files, which keep their names there.
      page: text of README.md.
    """

    repository: str
    paths: tuple[Path, ...]
    page: str

    @property
    def files(self) -> dict[str, Path | bytes]:
        """Files by their names there, paths or contents."""
        return {**{path.name: path for path in self.paths}, "README.md": self.page.encode()}

    def lines(self) -> list[str]:
        """Say what there is, a line a file."""
        sizes = {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size
            for name, file in self.files.items()
        }
        return [f"  {name}, {size:,} bytes" for name, size in sizes.items()]


def check(repository: str, *, dry_run: bool) -> None:
    """Check a repository's name, and that what pushes is installed.

    Args:
      repository: "user/name".
      dry_run: whether nothing will be pushed, which needs nothing.

    Raises:
      RefusedError: if the name isn't one, or the package isn't installed.
    """
    if not _NAME.fullmatch(repository):
        raise RefusedError(f"--push={repository!r} is no repository of the hub: user/name is one")
    if not dry_run:
        packages.check("--push", "huggingface_hub", install="diffjax[hub]")


def prepare(repository: str, output: Path, card: Mapping[str, Any]) -> Upload:
    """Collect what goes to a repository: the file, its card, and README.md made of the card.

    Args:
      repository: "user/name".
      output: the exported file, whose card lies beside it.
      card: that card.
    """
    return Upload(repository, (output, card_lib.path_of(output)), page_of(repository, card))


def push(upload: Upload) -> str:
    """Send files to a repository in one commit; one that isn't there is made, private.

    Who may, the hub knows from `hf auth login` or $HF_TOKEN; $HF_ENDPOINT is another hub.

    Args:
      upload: what goes there.

    Returns:
      Address of the commit.

    Raises:
      ConnectionError: in one line, if the hub can't be reached or doesn't take it.
    """
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    operations = [
        huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file)
        for name, file in upload.files.items()
    ]
    try:
        hub.create_repo(repo_id=upload.repository, private=True, exist_ok=True)
        commit = hub.create_commit(
            repo_id=upload.repository,
            operations=operations,
            commit_message="Upload by diffjax",
        )
    except Exception as error:  # of the hub, of HTTP, of the network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(
            f"--push={upload.repository}: the hub didn't take it ({reason}); the file is written "
            "here. `hf auth login` tells it who you are"
        ) from error
    return str(commit.commit_url)


def page_of(repository: str, card: Mapping[str, Any]) -> str:
    """Write a repository's page, README.md with the hub's front matter.

    Args:
      repository: "user/name".
      card: of the file.
    """
    network, teacher = card["network"], card["teacher"]
    licence = _LICENCES.get(teacher["licence"], "other")
    facts = {
        "file": f"`{card['file']['name']}`, format {card['format']}",
        "network": network.get("kind") or "of unknown kind",
        "method": network.get("method"),
        "noise level at which it is asked": network.get("init_sigma"),
        "classes": network.get("label_dim"),
        "parameters": f"{card['parameters']:,}",
        "teacher": teacher.get("name"),
        "licence of the teacher": teacher["licence"],
        "SHA-256 of the file": f"`{card['file']['sha256']}`",
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    lines = [
        "---",
        "library_name: diffjax",
        f"license: {licence}",
        "tags: [diffjax, one-step-generation, diffusion-distillation]",
        "---",
        "",
        f"# {repository.partition('/')[2]}",
        "",
        "A network of diffjax: one-step generators from pretrained diffusion models, in JAX.",
        "",
        "| | |",
        "|-|-|",
        *rows,
        "",
        f"`{card['file']['name']}.json` has the rest: settings, what it was measured by, digests.",
    ]
    return "\n".join(lines) + "\n"
