"""Statistics without files: curves, the bootstrap, noise, change points, contrasts, power."""
