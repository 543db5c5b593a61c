"""Suites that are hub repositories: one branch or tag per checkpoint.

Discovery costs one request for the branches and one per checkpoint for its files, whose hashes identify the
weights without a download. Every revision is pinned to the commit it stands for at that moment, so a branch that
moves during a run changes nothing. Weights come as safetensors, else as ``pytorch_model*.bin`` (to be loaded with
``weights_only=True``), never as another kind of pickle.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.base.files import JSON_BYTES, read_regular
from pipeline.spec import Checkpoint
from pipeline.suites.content import canonical_config, find_duplicates, weights_sha256
from pipeline.suites.entries import HubSuite
from pipeline.suites.hub.fetching import fetch
from pipeline.suites.hub.hub_requests import reason
from pipeline.suites.hub.listing import Listing, shared_files
from pipeline.suites.hub.remote import config_file, list_commit, list_refs
from pipeline.suites.revisions import ALL, FORMS, Revision, RevisionChoice, sort_revisions
from pipeline.suites.suite import HUB, Suite, chosen_stages

LISTINGS_AT_ONCE = 16


def open_hub(suite: HubSuite, choice: RevisionChoice = ALL) -> Suite:
    """Open the checkpoints of a repository that ``choice`` selects.

    A checkpoint whose files cannot be listed is in the suite without a content id and with a warning; it fails by
    name when it is measured. Raises UsageError if the repository cannot be listed or has no checkpoint.
    """
    repository, name = suite.repository, suite.name
    try:
        commits = list_refs(repository)
    except Exception as error:
        raise UsageError(f"hub repository {repository} cannot be listed: {reason(error)}") from error
    own = None if suite.pattern is None else re.compile(suite.pattern)
    revisions, skipped = sort_revisions(commits, choice.pattern() or own)
    if not revisions:
        found = ", ".join(skipped[:8]) or "none"
        wanted = choice.regex if choice.pattern() else suite.pattern or FORMS
        raise UsageError(
            f"no checkpoints in hub repository {repository}: wanted branches named {wanted}; found {found}"
        )
    stages = chosen_stages(name, revisions, choice)
    listings, problems = _list_all(repository, {each.name: commits[each.name] for each in stages})
    checkpoints = [
        _checkpoint(suite, revision, stage, commits[revision.name], listings.get(revision.name))
        for revision, stage in stages.items()
    ]
    same = _same_ids(checkpoints, listings)
    return Suite(
        name=name,
        location=HUB + repository,
        checkpoints=find_duplicates(
            checkpoints,
            functools.partial(_whole_hash, listings),
            {each.key: same[each.revision] for each in checkpoints if each.revision in same},
        ),
        tokenizer=_tokenizer(repository, commits, listings),
        training=suite.training,
        skipped=tuple(skipped),
        warnings=(
            *suite.warnings([revision.name for revision in stages]),
            *problems,
            *shared_files(listings, same),
        ),
    )


def _checkpoint(
    suite: HubSuite, revision: Revision, stage: str, commit: str, listing: Listing | None
) -> Checkpoint:
    tokens = suite.tokens_seen(revision.name, revision.step)
    return Checkpoint(
        step=revision.step,
        revision=revision.name,
        location=HUB + suite.repository,
        content_id=listing.content_id if listing else "",
        stage=stage,
        tokens_seen=revision.tokens if tokens is None else tokens,
        learning_rate=suite.learning_rate(revision.name, revision.step),
        weights_sha256=listing.weights_sha256 if listing else None,
        commit=commit,
    )


def _same_ids(checkpoints: Sequence[Checkpoint], listings: Mapping[str, Listing]) -> dict[str, str]:
    """Revision -> id that is equal for equal weights and settings, whatever the formatting of config.json.

    Configurations are fetched only if weights are equal and the config files differ.
    """
    same = {revision: listing.content_id for revision, listing in listings.items()}
    groups: dict[str, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        if checkpoint.content_id:
            groups[listings[checkpoint.revision].weights_id].append(checkpoint)
    for weights, group in groups.items():
        if len({each.content_id for each in group}) > 1:
            for each in group:
                with suppress(CheckpointError, OSError):  # then its own bytes stand for it
                    config = read_regular(config_file(each), JSON_BYTES)
                    digest = hashlib.sha256(canonical_config(config)).hexdigest()
                    same[each.revision] = f"{weights} {digest}"
    return same


def _whole_hash(listings: Mapping[str, Listing], checkpoint: Checkpoint) -> str:
    """Full hash of the weights of a checkpoint whose listing has hashes of samples only; else empty."""
    if not any(file.sampled for file in listings[checkpoint.revision].weights):
        return ""
    try:
        return weights_sha256(fetch(checkpoint))
    except CheckpointError:  # deleted meanwhile: it fails by name when it is measured
        return checkpoint.key


def _list_all(repository: str, commits: Mapping[str, str]) -> tuple[dict[str, Listing], list[str]]:
    """Revision -> listing in the given order, and a sentence for each revision without one."""

    def listing(commit: str) -> Listing | str:
        try:
            return list_commit(repository, commit)
        except Exception as error:  # noqa: BLE001 (it then fails by name when it is fetched; the others go on)
            return reason(error)

    with ThreadPoolExecutor(max_workers=LISTINGS_AT_ONCE) as pool:
        found = dict(zip(commits, pool.map(listing, commits.values()), strict=True))
    problems = [
        f"files of {name} cannot be listed: {why}" for name, why in found.items() if isinstance(why, str)
    ]
    return {name: listing for name, listing in found.items() if isinstance(listing, Listing)}, problems


def _tokenizer(repository: str, commits: Mapping[str, str], listings: Mapping[str, Listing]) -> str | None:
    """``hf://org/name@commit`` of the last checkpoint that comes with a tokenizer, else of the main branch."""
    last: Sequence[str] = [name for name, listing in listings.items() if listing.tokenizer]
    if last:
        return f"{HUB}{repository}@{commits[last[-1]]}"
    main, _ = _list_all(repository, {name: commit for name, commit in commits.items() if name == "main"})
    return f"{HUB}{repository}@{commits['main']}" if "main" in main and main["main"].tokenizer else None
