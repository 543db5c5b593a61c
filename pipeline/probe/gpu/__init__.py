"""The probe on a GPU, on Triton kernels. Imported only where it is used, so that a machine without Triton needs none."""
