"""Stores of output folders: a local folder, or a prefix of an object store (``s3://``, ``gs://``).

A *store* holds named files of bytes (names relative to the folder, ``shards/audit/step000001000.arrow``), each of
which is there whole or not at all, by the store's own means: on a file system a temporary sibling, fsync and rename;
in an object store one finished PUT, which no reader ever sees half of. ``pipeline.runs.folder`` says what the names
mean.
"""

from pipeline.store.address import Address, is_url, parse_location
from pipeline.store.interface import Store
from pipeline.store.local_store import LocalStore
from pipeline.store.objects import ObjectStore

__all__ = ["Address", "LocalStore", "ObjectStore", "Store", "is_url", "open_store", "parse_location"]


def open_store(location: object) -> Store:
    """Open the store at a path or URL. Touches nothing yet; raises UsageError for a malformed location."""
    where = parse_location(str(location))
    return ObjectStore(where) if isinstance(where, Address) else LocalStore(where)
