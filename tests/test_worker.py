"""The worker as a process: its exit codes, its files, its silence, and that it never outlives its parent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import psutil
import pytest

from distill_dagster.jobs import GenerateJob, TrainJob
from tests.worker_jobs import dataset_rows, generate_job, messages, train_job, write_dataset


def write_job(job: GenerateJob | TrainJob) -> Path:
    job.out.mkdir(parents=True, exist_ok=True)
    path = job.out / "job.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    return path


def run_worker(job_file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distill_dagster.worker", str(job_file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.parquet"
    pl.DataFrame({"request_key": ["a", "b"], "messages": [messages("Who are you?"), messages("Hi")]}).write_parquet(
        path
    )
    return path


def test_a_job_done_leaves_its_result_and_says_nothing(tiny_model: Path, requests: Path, tmp_path: Path):
    job = generate_job(tiny_model, requests, tmp_path / "out")

    done = run_worker(write_job(job))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((job.out / "result.json").read_text())["answered"] == 2
    lines = [json.loads(line) for line in (job.out / "progress.jsonl").read_text().splitlines()]
    assert [(line["done"], line["total"], line["unit"]) for line in lines] == [(0, 2, "answers"), (2, 2, "answers")]


def test_training_says_nothing_either(tiny_model: Path, tmp_path: Path):
    dataset = write_dataset(tmp_path / "dataset", train=dataset_rows(4), validation=dataset_rows(2, first=9))
    done = run_worker(write_job(train_job(tiny_model, dataset, tmp_path / "out", max_steps=2)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mistake_of_the_user_is_one_message_and_no_traceback(requests: Path, tmp_path: Path):
    job = generate_job(tmp_path / "no model", requests, tmp_path / "out")

    done = run_worker(write_job(job))

    assert (done.returncode, done.stderr) == (2, "")
    error = json.loads((job.out / "error.json").read_text())
    assert error["error"] == "TeacherError"
    assert "no model: cannot be loaded" in error["message"]
    assert not (job.out / "result.json").exists()


def test_any_other_failure_is_a_traceback(tiny_model: Path, tmp_path: Path):
    job = generate_job(tiny_model, tmp_path / "no requests.parquet", tmp_path / "out")
    done = run_worker(write_job(job))
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr


def test_the_worker_ends_when_its_parent_is_killed(tiny_model: Path, tmp_path: Path):
    dataset = write_dataset(tmp_path / "dataset", train=dataset_rows(20))
    job_file = write_job(train_job(tiny_model, dataset, tmp_path / "out", max_steps=100_000))
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-m', 'distill_dagster.worker', sys.argv[1]])\n"
            "print(child.pid, flush=True)\n"
            "child.wait()\n",
            str(job_file),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    progress = job_file.with_name("progress.jsonl")
    while not progress.exists() or not progress.stat().st_size:
        assert worker.is_running()

    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()

    gone, alive = psutil.wait_procs([worker], timeout=30)
    assert gone
    assert not alive


def test_the_worker_imports_no_torch_before_it_knows_its_job():
    code = "import sys, distill_dagster.worker; print(sorted({'torch', 'transformers', 'dagster'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
