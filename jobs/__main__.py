"""``python -m jobs``, for machines where the package is not installed (a submitted job's working directory)."""

import sys

# Python puts the working directory first, so that a numpy.py or pipeline.py in it would be taken for the library's:
# everything is imported from where this package lies, as an installed command does.
sys.path[0] = __file__.rpartition("/jobs/")[0] or sys.path[0]

from jobs.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
