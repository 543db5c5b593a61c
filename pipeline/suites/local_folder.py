"""Suites that are folders: one sub-folder per checkpoint, with or without a suite.json."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pipeline.base.errors import UsageError
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import choose_weights, has_tokenizer
from pipeline.suites.content import confirm_local, find_duplicates
from pipeline.suites.content_memory import identities
from pipeline.suites.manifest import MANIFEST, Entry, Manifest, read_manifest
from pipeline.suites.revisions import ALL, FORMS, Revision, RevisionChoice, sort_revisions
from pipeline.suites.suite import Suite, chosen_stages
from pipeline.suites.trainer_state import read_trainer_state, trainer_warnings
from pipeline.suites.training_settings import TrainingSettings

CACHED = "models--"
"""Prefix of repository names in the hub client's cache."""

_T = TypeVar("_T")


def open_folder(folder: Path, choice: RevisionChoice = ALL) -> Suite:
    """Open the checkpoints in ``folder`` that ``choice`` selects. Weights are hashed, not loaded.

    A sub-folder with a checkpoint's name is listed even if its weights are missing, and so is a missing folder that
    suite.json or a symlink names: it fails by name when it is measured. Raises UsageError for a folder without
    checkpoints and for a broken suite.json.
    """
    folder = folder.expanduser().resolve()
    manifest = read_manifest(folder)
    entries = _entries(folder, manifest)
    names = sorted({*_sub_folders(folder), *entries})
    revisions, skipped = sort_revisions(names, choice.pattern())
    if not revisions:
        raise UsageError(_none_found(folder, names))
    name = _shown(manifest.name if manifest else folder.name)
    checkpoints, warnings = _checkpoints(folder, name, revisions, entries, choice)
    return Suite(
        name=name,
        location=str(folder),
        checkpoints=checkpoints,
        default_corpus=_resolve(folder, manifest.evaluation_corpus) if manifest else None,
        default_shape=manifest.evaluation_shape if manifest else None,
        tokenizer=_tokenizer(folder, revisions),
        training=TrainingSettings.from_recipe(manifest.recipe) if manifest else TrainingSettings(),
        recipe=manifest.recipe if manifest else {},
        train_corpus=manifest.corpus if manifest else None,
        skipped=tuple(map(_shown, skipped)),
        warnings=warnings,
    )


def _checkpoints(
    folder: Path, name: str, revisions: list[Revision], entries: dict[str, Entry], choice: RevisionChoice
) -> tuple[tuple[Checkpoint, ...], tuple[str, ...]]:
    """The checkpoints, and warnings about some of them."""
    stages = chosen_stages(name, revisions, choice)
    folders = [folder / revision.name for revision in stages]
    found, states, same = [], {}, {}
    for revision, path, identity in zip(stages, folders, identities(folder, folders), strict=True):
        entry = entries.get(revision.name) or Entry(revision.step, revision.name)
        state = read_trainer_state(path, revision.step)
        if entry.learning_rate is None:
            states[_shown(revision.name)] = state
        found.append(
            Checkpoint(
                step=revision.step,
                revision=revision.name,
                location=str(path),
                content_id=identity.content,
                stage=stages[revision],
                tokens_seen=_first(entry.tokens_seen, state.tokens_seen, revision.tokens),
                learning_rate=_first(entry.learning_rate, state.learning_rate),
                weights_sha256=entry.sha256,
            )
        )
        same[found[-1].key] = identity.same
    return find_duplicates(found, confirm_local, same), tuple(trainer_warnings(states.items()))


def _sub_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, and of symlinks without a target; hidden ones are left out."""
    try:
        return [
            path.name
            for path in folder.iterdir()
            if not path.name.startswith(".") and (path.is_dir() or (path.is_symlink() and not path.exists()))
        ]
    except OSError as error:
        raise UsageError(
            f"suite folder {folder} cannot be listed: {error.strerror}; wanted one that you may read"
        ) from error


def _entries(folder: Path, manifest: Manifest | None) -> dict[str, Entry]:
    entries = {entry.revision: entry for entry in manifest.checkpoints} if manifest else {}
    path = folder / MANIFEST
    for entry in entries.values():
        revision = sort_revisions([entry.revision])[0]
        if not revision or revision[0].step != entry.step:
            raise UsageError(
                f"{path} is broken: it calls folder {entry.revision} step {entry.step}; wanted {FORMS}"
            )
    return entries


def _first(*values: _T | None) -> _T | None:
    return next((value for value in values if value is not None), None)


def _tokenizer(folder: Path, revisions: list[Revision]) -> str | None:
    candidates = [folder, *(folder / revision.name for revision in reversed(revisions))]
    return next((str(path) for path in candidates if has_tokenizer(_names(path))), None)


def _resolve(folder: Path, corpus: str | None) -> str | None:
    """The corpus with the relative path of a ``tokens:`` or ``file:`` corpus made absolute."""
    kind, _, path = (corpus or "").partition(":")
    if kind not in ("tokens", "file") or not path or path.startswith("~"):
        return corpus
    return f"{kind}:{folder / path}"


def _names(folder: Path) -> list[str]:
    """Names in ``folder``; none if it is absent or unreadable, which is an error when it is measured."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _shown(name: str) -> str:
    """``name`` as printable text: a file name may hold bytes that are not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _none_found(folder: Path, names: list[str]) -> str:
    if choose_weights(_names(folder)):
        return (
            f"{folder} is itself one checkpoint: wanted the folder above it, with sub-folders named {FORMS}"
        )
    for root, name in ((folder.parent, folder.name), *((folder, each) for each in names)):
        if name.startswith(CACHED) and (root / name / "snapshots").is_dir():
            repository = name.removeprefix(CACHED).replace("--", "/", 1)
            return (
                f"{folder} is a cache of the hub client: give {repository} as the suite, with HF_HUB_CACHE={root} and "
                "HF_HUB_OFFLINE=1 in the environment"
            )
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no sub-folders"
    return f"no checkpoints in {folder}: wanted sub-folders named {FORMS}; found {shown}"
