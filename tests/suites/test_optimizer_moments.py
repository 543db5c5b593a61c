"""Adam's state beside a checkpoint, where what lies there is no such file."""

import os

import pytest

from pipeline.base.errors import CheckpointError
from pipeline.suites.optimizer_moments import MOMENTS_FILE, read_moments


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "damaged", "absent"])
def test_moments_that_cannot_be_read_are_named_at_once(kind, tmp_path):
    path = tmp_path / MOMENTS_FILE
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "damaged":
        path.write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=f"{MOMENTS_FILE} cannot be read"):
        read_moments(tmp_path)
