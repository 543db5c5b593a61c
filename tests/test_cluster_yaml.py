"""The cluster file and its variants against Ray's own schema, and the manifest for Kubernetes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import ray
import yaml

from jobs.cli import main
from pipeline.base.versions import __version__

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def variant(name: str) -> dict[str, Any]:
    """The cluster with the blocks of the variant in the place of those of the same name."""
    lines = [line.removeprefix(f"#{name} ") for line in TEXT.splitlines() if line.startswith(f"#{name} ")]
    blocks: dict[str, Any] = yaml.safe_load("\n".join(lines)) or {}
    cluster: dict[str, Any] = yaml.safe_load(TEXT)
    assert blocks.keys() <= cluster.keys()
    return cluster | blocks


@pytest.mark.parametrize(("name", "provider"), [("aws", "aws"), ("gcp", "gcp"), ("own", "local")])
def test_it_is_what_rays_launcher_accepts(name: str, provider: str) -> None:
    cluster = variant(name)
    jsonschema.validate(cluster, SCHEMA)
    assert cluster["provider"]["type"] == provider
    types = cluster["available_node_types"]
    if provider == "local":
        assert not types
        return
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1


def test_nodes_are_set_up_from_the_lock_and_authenticate() -> None:
    cluster = variant("aws")
    assert any("make install" in command for command in cluster["setup_commands"])
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert any("RAY_AUTH_MODE=token ray start" in command for command in cluster[commands])


def test_the_manifest_for_kubernetes_fits_a_page_and_runs_a_command_that_exists() -> None:
    text = (ROOT / "rayjob.yaml").read_text()
    assert len(text.splitlines()) <= 60
    spec = yaml.safe_load(text)["spec"]
    lock = (ROOT / "requirements.lock").read_text()
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}\n" in lock
    python, module, package, name, *arguments = shlex.split(spec["entrypoint"])
    assert (python, module, package) == ("python", "-m", "jobs")
    with click.Context(main) as group:
        command = main.get_command(group, name)
        assert command is not None
        command.make_context(name, arguments, parent=group)
    assert set(re.findall(r"image: int4-collapse:(.*)", text)) == {__version__}
