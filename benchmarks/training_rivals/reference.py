"""The losses of the first batch in the plainest way, in float64 from full float32 logits: what `--check` compares with.

python -m benchmarks.training_rivals.reference SETTING.json
"""

import json

import torch
from torch import Tensor

from benchmarks.training_rivals.loop import collate, load_rows, load_student, load_teacher
from benchmarks.training_rivals.setting import Setting


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Mean forward KL of log-probabilities, [tokens, vocabulary]."""
    return float((teacher.exp() * (teacher - student)).sum(1).mean())


@torch.no_grad()
def main() -> None:
    setting = Setting.from_command_line()
    rows = load_rows(setting)
    batch = collate([rows[row] for row in setting.batches[0]])
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"][:, 1:]
    student, _ = load_student(setting)
    p, q = (
        model(input_ids=ids, attention_mask=mask).logits[:, :-1][labels != -100].double().log_softmax(-1)
        for model in (load_teacher(setting), student.eval())
    )
    losses = {
        "forward_kl": divergence(p, q),
        "cross_entropy_to_teacher": -float((p.exp() * q).sum(1).mean()),
        "cross_entropy": -float(q.gather(1, labels[labels != -100][:, None]).mean()),
    }
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
