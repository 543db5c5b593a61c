#!/usr/bin/env bash
# Makes every table and figure of this folder again from its shards. Needs no GPU and no network.
# From the root of the repository, with the packages of requirements.lock in the python of PATH or of the folder BIN.
set -euo pipefail
exec "${BIN:+$BIN/}python" -m tests.evidence.rebuild
