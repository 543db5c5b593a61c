"""Suites on a hub: listing, download, the disk cache and fetching ahead."""
