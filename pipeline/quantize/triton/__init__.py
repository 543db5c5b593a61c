"""Triton kernels that pack weights. A missing kernel makes a quantizer slower, never different."""
