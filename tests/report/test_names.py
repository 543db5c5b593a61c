"""Names of variants, tensors, suites and folders that mean something to a renderer: each is drawn as a text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline.report import build_figures, build_report
from tests.report import synthetic

STEPS = synthetic.steps()[::24]
ROOT = Path(__file__).parents[2]


def renamed(key: str) -> pl.DataFrame:
    """A trajectory whose INT8 variant is called otherwise."""
    table = synthetic.trajectory(STEPS)
    return table.rename({name: key + name[4:] for name in table.columns if name.startswith("int8_")})


@pytest.fixture(scope="module")
def plain() -> dict[str, bytes]:
    """The figures of a variant with a plain name."""
    return build_figures(renamed("int9"), pl.DataFrame(), synthetic.report())


@pytest.mark.parametrize("key", ["$x it's a\"b.\\c[0]", "__proto__"])
def test_a_variant_is_drawn_whatever_its_column_is_called(key: str, plain: dict[str, bytes]) -> None:
    figures = build_figures(renamed(key), pl.DataFrame(), synthetic.report())
    assert figures.keys() == plain.keys()
    assert all(len(figures[name]) > len(plain[name]) / 2 for name in plain), "as full as with a plain name"
    page = build_report(renamed(key), pl.DataFrame(), synthetic.report())
    assert f'data-v="{key}"' not in page


def test_names_of_suites_tensors_and_variants_are_texts() -> None:
    name = "$nope<b>\x00\x1b\udcff\"'"
    program = (
        "import sys\nfrom pipeline.report import build_figures\nfrom tests.report import synthetic\n"
        "import polars as pl\nname = eval(sys.argv[1])\nsteps = synthetic.steps()[::24]\n"
        "arrow = name.encode('utf-8', 'replace').decode()\n"
        "tensors = synthetic.tensors(steps).with_columns((pl.lit(arrow) + pl.col('name')).alias('name'))\n"
        "tensors = tensors.with_columns(pl.lit(arrow).alias('variant'))\n"
        "figures = build_figures(synthetic.trajectory(steps), tensors, synthetic.report(suite=name))\n"
        "print(len(figures))"
    )
    # In a process of its own, because the renderer used to end the whole one.
    drawn = subprocess.run(
        [sys.executable, "-c", program, repr(name)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert drawn.returncode == 0, drawn.stderr
    assert int(drawn.stdout) > 0
