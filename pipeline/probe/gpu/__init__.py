"""The probe on a GPU, on Triton kernels. Imported only where it is used: elsewhere Triton is not needed."""
