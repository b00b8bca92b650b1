"""Training does not keep a prepared product for every number of tokens that it has ever seen."""

import os
import subprocess
import sys

import pytest

from distill_dagster.students import products

ASKED_AGAIN = """
from distill_dagster.students.freed_memory import lay_out_memory
lay_out_memory()
import torch
weight = torch.ones(8, 8)
for rows in [*range(1, 101), 100, 1]:
    torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 8), weight, None, "none", [], "")
"""


@pytest.mark.skipif(not products._HAS_ONEDNN, reason="torch was built without oneDNN")
def test_of_many_products_the_latest_are_kept_ready():
    told = os.environ | {"ONEDNN_VERBOSE": "profile_create"}
    done = subprocess.run([sys.executable, "-c", ASKED_AGAIN], env=told, capture_output=True, text=True, check=True)

    created = [line.split(",")[3] for line in done.stdout.splitlines() if ",create:cache_" in line]
    assert len(created) == 102
    assert created[-2:] == ["create:cache_hit", "create:cache_miss"]
