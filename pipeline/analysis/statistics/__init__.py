"""Statistics that know no file: curves, the bootstrap, noise, change points, contrasts, power."""
