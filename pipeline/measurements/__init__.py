"""Measurements, one file each: a frozen declaration with plain functions.

A measurement names its columns (unit, dtype, label, axis, direction of good), its level and a hook. The columns of
shards, the rows of diverged runs, the trajectory table and the report's menus, tables and axes are made from that.
``base`` says what each level's hook is given. To add one, write a file with a ``TokenMeasurement``,
``TensorMeasurement``, ``HiddenMeasurement`` or ``CheckpointMeasurement``, hand it to :func:`register` and name the file
as a plug-in (``pipeline.base.plugins``); ``--measure NAME`` then asks for it.

The five of ``CORE`` (``pipeline.spec.MEASUREMENTS``) are always measured; their columns are in every shard.

What the engine that walks a model must offer, on every device, is in ``hooks``:

- *token*: for each block of predictions, ``token_values(measurements, logits_VPK, targets_P)``. A backend whose kernels
  compute some of the values themselves leaves the measurements that give these out and hands over arrays of the same
  names, dtypes (``TokenMeasurement.values``) and shape. After the last block, for each variant,
  ``token_columns(measurements, values, batches)``.
- *tensor*: for each quantized weight and variant ``tensor_values(measurements, QuantizedWeight)``; a backend whose
  kernels sum up some of them does the same. What calibrating a weight gave, the engine itself hands to
  ``outcome_values(measurements, outcome)``.
- *hidden*: a ``HiddenStates`` of the measurements and the number of decoder layers, given the residual stream of fp32
  after each layer, whatever the pieces; then its ``columns()``.
- *checkpoint*: ``checkpoint_values(measurements, model, tokens_NT)`` before any layer of the model is replaced. Where
  the model is never there as a whole, such a measurement is refused by name (``refuse_whole_models``).

A fast kernel for a measurement changes its speed, never its numbers.
"""

from pipeline.measurements.column_sets import (
    choices,
    columns,
    is_per_variant,
    pool,
    pool_values,
    pooled_columns,
    score_columns,
    squared_error,
    tensor_columns,
    trajectory_columns,
    unvaried_columns,
)
from pipeline.measurements.measurement import (
    AnyMeasurement,
    CheckpointMeasurement,
    Column,
    HiddenMeasurement,
    HiddenObserver,
    Level,
    OutcomeMeasurement,
    QuantizedWeight,
    TensorMeasurement,
    TokenBlock,
    TokenMeasurement,
)
from pipeline.measurements.registration import (
    further,
    installed,
    lookup,
    of_fp32,
    parse_measurements,
    register,
    registered,
    selected,
    unregister,
)

__all__ = [
    "AnyMeasurement", "CheckpointMeasurement", "Column", "HiddenMeasurement", "HiddenObserver", "Level",
    "OutcomeMeasurement", "QuantizedWeight", "TensorMeasurement", "TokenBlock", "TokenMeasurement",
    "choices", "columns", "further", "installed", "is_per_variant", "lookup", "of_fp32",
    "parse_measurements", "pool", "pool_values", "pooled_columns", "register", "registered", "score_columns",
    "selected", "squared_error", "tensor_columns", "trajectory_columns", "unregister", "unvaried_columns",
]  # fmt: skip
