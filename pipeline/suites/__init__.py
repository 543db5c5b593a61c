"""Sources of trajectories: folders, hub repositories, registered names. Needs no torch."""

from pipeline.suites.checkpoint_files import weight_files
from pipeline.suites.content import content_id, find_duplicates, weights_sha256
from pipeline.suites.entries import HubSuite, RecipeSuite
from pipeline.suites.hub.fetching import Fetcher, checkout, fetch
from pipeline.suites.manifest import Entry, Manifest, read_manifest, write_manifest
from pipeline.suites.opening import load_tokenizer, open_suite
from pipeline.suites.registry import known_suites, registered_suite, repository_suite
from pipeline.suites.suite import Suite
from pipeline.suites.training_settings import TrainingSettings, clipped_cosine
from pipeline.suites.unchanged import Unchanged

__all__ = [
    "Entry", "Fetcher", "HubSuite", "Manifest", "RecipeSuite", "Suite", "TrainingSettings", "Unchanged", "checkout",
    "clipped_cosine", "content_id", "fetch", "find_duplicates", "known_suites", "load_tokenizer", "open_suite",
    "read_manifest", "registered_suite", "repository_suite", "weight_files", "weights_sha256", "write_manifest",
]  # fmt: skip
