"""Open a suite by the name that a user gives, and load its tokenizer."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import UsageError, unknown_name
from pipeline.base.files import open_regular
from pipeline.base.paths import nearest, user_path
from pipeline.suites.checkpoint_files import TOKENIZER_FILES
from pipeline.suites.entries import HubSuite, RecipeSuite
from pipeline.suites.hub.hub_suite import open_hub
from pipeline.suites.hub.remote import tokenizer_folder
from pipeline.suites.local_folder import open_folder
from pipeline.suites.registry import known_suites, registered_suite, repository_suite
from pipeline.suites.revisions import RevisionChoice
from pipeline.suites.suite import HUB, Suite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TOKENIZER_BYTES = 2**29
"""Largest file of a tokenizer, bytes: one with a quarter of a million entries has 40 MB."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = "a folder, a hub repository org/name, or a name that `int4-collapse suites` lists"


def open_suite(name: str | Path, revisions: str | None = None) -> Suite:
    """Open the suite ``name``: a registered name, else a folder, else a hub repository ``org/name``.

    ``revisions`` is a regular expression: only checkpoints whose folder or branch name it matches in full. Hashes
    local weights (seconds for gigabytes) but loads none. Needs neither torch nor transformers.

    Raises UsageError for an unknown name, a folder without checkpoints, a broken suite.json, a repository that
    cannot be listed, and for a registered recipe, which has to be trained first.
    """
    name = str(name)
    if not name:
        raise UsageError(f"suite '' names nothing: wanted {_WANTED}")
    choice = RevisionChoice(revisions)
    registered = registered_suite(name)
    if isinstance(registered, HubSuite):
        return open_hub(registered, choice)
    if isinstance(registered, RecipeSuite):
        raise UsageError(
            f"suite {name!r} is trained first: run `int4-collapse pretrain {registered.recipe} --out DIR` "
            "and give that folder"
        )
    path = user_path(name, "suite")
    if path.is_dir():
        return open_folder(path, choice)
    if path.exists():
        raise UsageError(f"suite {name!r} is a file: wanted a folder with one sub-folder per checkpoint")
    if _REPOSITORY.fullmatch(name) and not name.startswith("."):
        try:
            return open_hub(repository_suite(name), choice)
        except UsageError as error:
            if not path.parent.is_dir():
                raise
            raise UsageError(
                f"{error}; there is no folder {name!r} either{nearest(path, Path.is_dir)}"
            ) from error
    if "/" in name or name.startswith((".", "~")):
        if "://" in name:
            raise UsageError(
                f"suite {name}: a suite is a registered name, org/name of a hub, or a local folder"
            )
        raise UsageError(f"suite folder {name!r} does not exist{nearest(path, Path.is_dir)}")
    raise UsageError(f"{unknown_name('suite', name, known_suites())}; wanted {_WANTED}")


def load_tokenizer(suite: Suite) -> PreTrainedTokenizerBase:
    """Load the suite's tokenizer. Raises UsageError if none can be read. Imports transformers (seconds)."""
    if suite.tokenizer is None:
        raise UsageError(f"suite {suite.name} has no tokenizer: give its evaluation text as tokens:FILE.npy")
    if suite.tokenizer.startswith(HUB):
        folder = str(tokenizer_folder(suite.tokenizer.removeprefix(HUB)))
    else:
        folder = suite.tokenizer
    from transformers import AutoTokenizer

    try:
        _check_files(Path(folder))
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer raises exceptions of many types
        first_line = (str(getattr(error, "strerror", None) or error).splitlines() or [""])[0]
        raise UsageError(
            f"the tokenizer of suite {suite.name} in {folder} cannot be read: {first_line}"
        ) from error
    return tokenizer


def _check_files(folder: Path) -> None:
    """Raise OSError if a file of the tokenizer is no regular file or too large."""
    for name in (*TOKENIZER_FILES, "config.json", "chat_template.jinja", "chat_template.json"):
        if (folder / name).exists():
            with open_regular(folder / name) as file:
                if os.fstat(file.fileno()).st_size > MOST_TOKENIZER_BYTES:
                    raise OSError(errno.EFBIG, f"{name} has more than {MOST_TOKENIZER_BYTES:,} bytes")
