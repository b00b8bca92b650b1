"""Our own trainer on captured logits, started as a student's worker is: without what it does not use."""

from benchmarks.training_rivals.setting import Setting
from distill_dagster.unused_imports import leave_out

if __name__ == "__main__":
    setting = Setting.from_command_line()
    if setting.objective != "sft":
        leave_out()
    from benchmarks.training_rivals.own_loop import run_ours

    run_ours(setting)
