"""A worker's process is spared the packages that its job does not use."""

import subprocess
import sys

import pytest

from distill_dagster.unused_imports import UNUSED, leave_out_unused
from tests.worker_jobs import train_job

TRAINER = """
import sys
from distill_dagster.unused_imports import leave_out
leave_out()
from transformers import Trainer
import polars
print(sorted(name for name in sys.modules if sys.modules[name] and name.split(".")[0] in {"datasets", "peft", "scipy"}))
"""


def test_the_training_loop_does_without_them():
    done = subprocess.run([sys.executable, "-c", TRAINER], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("changed", [{"objective": "sft"}, {"objective": "on_policy"}])
def test_trl_keeps_them(tmp_path, monkeypatch, changed):
    for name in UNUSED:
        monkeypatch.delitem(sys.modules, name, raising=False)

    leave_out_unused(train_job(tmp_path, tmp_path, tmp_path / "out", **changed))

    assert not set(UNUSED) & sys.modules.keys()
