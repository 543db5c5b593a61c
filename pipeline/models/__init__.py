"""A checkpoint as a model: loading, a model without its weights, its linear layers, its layer walk, memory."""
