"""The output folder of a run: the only module that knows its paths and the schemas of its shards.

::

    DIR/run.json                           what was asked of the audit: suite, checkpoints, settings, fingerprint
    DIR/tokens.npy                         its evaluation tokens, int64 (batches, batch_size, seq_len)
    DIR/shards/audit/step000001000.arrow   one checkpoint, one row per variant
    DIR/failures/audit/step000001000.json  why a checkpoint has no shard (gone once it has one)
    DIR/fork.json fork_tokens.npy fork_train.npy   the same of a fork experiment, and its training tokens
    DIR/fork_train.json                    of which text and tokenizer they are: a rerun need not make them again
    DIR/shards/fork/oli-seed2.arrow        one run, one row per probe, variant and set of weights
    DIR/state/fork/oli-seed2-step1500.pt   where an unfinished run stands (gone once it has a shard)
    DIR/tables/ report.json report.html fork.html figures/   what the reduction makes of them
    DIR/events.jsonl                       what happened when, one JSON object per line (``pipeline.events``)
    DIR/.lock                              held by the one driver of the folder (a folder of leases in an object store)
    DIR/.tmp/                              unfinished uploads, in an object store only

DIR is a local folder or a URL (``pipeline.store``). A shard is done when its file is there and sealed
(``pipeline.files``); there is no marker and no database.
"""

from pipeline.shards.folder import FIGURES, REPORT, SCHEDULES, TABLES, RunFolder
from pipeline.shards.plans import ForkPlan, RunPlan
from pipeline.shards.schemas import AUDIT, AUDIT_SCHEMA, FORK, FORK_SCHEMA, Kind
from pipeline.shards.shard import Lacks, Origin, Shard

__all__ = [
    "AUDIT", "AUDIT_SCHEMA", "FIGURES", "FORK", "FORK_SCHEMA", "REPORT", "SCHEDULES", "TABLES",
    "ForkPlan", "Kind", "Lacks", "Origin", "RunFolder", "RunPlan", "Shard",
]  # fmt: skip
