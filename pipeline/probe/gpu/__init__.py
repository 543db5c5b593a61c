"""The Triton kernels of the probe. Imported only if used, so that Triton is optional."""
