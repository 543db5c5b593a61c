"""``python -m jobs``, for machines where the package is not installed (a submitted job's working directory)."""

import sys

# Python puts the working directory first, and a numpy.py or pipeline.py there would shadow the real one. Import
# everything from this package's own folder, as an installed command does.
sys.path[0] = __file__.rpartition("/jobs/")[0] or sys.path[0]

from jobs.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
