"""``python -m jobs``, for machines where the package is not installed (a submitted job's working directory)."""

from jobs.cli import main

if __name__ == "__main__":
    main()
