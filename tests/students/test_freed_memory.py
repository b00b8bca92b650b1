"""Training does not keep a prepared product for every number of tokens that it has ever seen."""

import os
import subprocess
import sys

import pytest

from distill_dagster.students import products

SHAPES = 100
ASKED_AGAIN = f"""
from distill_dagster.students.freed_memory import lay_out_memory
lay_out_memory()
import torch
weight = torch.ones(8, 8)
for rows in [*range(1, {SHAPES + 1}), 1]:
    torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 8), weight, None, "none", [], "")
"""


def prepared(**environment: str) -> list[str]:
    """For each product, in their order: was it `cache_hit` or `cache_miss`?"""
    told = os.environ | {"ONEDNN_VERBOSE": "profile_create"} | environment
    command = [sys.executable, "-c", ASKED_AGAIN]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
    events = [line.split(",")[3] for line in done.stdout.splitlines() if ",create:cache_" in line]
    return [event.removeprefix("create:") for event in events]


@pytest.mark.skipif(not products._HAS_ONEDNN, reason="torch was built without oneDNN")
@pytest.mark.parametrize(
    ("environment", "again"),
    [
        ({}, "cache_miss"),
        ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1000"}, "cache_hit"),
    ],
    ids=["kept few", "the user's number"],
)
def test_the_first_of_many_is_prepared_anew(environment, again):
    events = prepared(**environment)
    assert len(events) == SHAPES + 1
    assert events[-1] == again
