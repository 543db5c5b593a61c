"""Integer grids for weights: three pure verbs and the statistics of what they do to a tensor."""

from pipeline.quantize.affine import Grid, choose_params, dequantize, quantize, round_trip
from pipeline.quantize.statistics import GridFit, Moments, grid_fit, moments

__all__ = [
    "Grid",
    "GridFit",
    "Moments",
    "choose_params",
    "dequantize",
    "grid_fit",
    "moments",
    "quantize",
    "round_trip",
]
