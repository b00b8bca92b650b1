"""The losses of the first batch in the plainest way, in float64 from full float32 logits: what `--check` compares with.

python -m benchmarks.training_rivals.reference SETTING.json
"""

import json

import torch
from torch import Tensor

from benchmarks.training_rivals.loop import collate, load_rows, load_student, load_teacher
from benchmarks.training_rivals.setting import TOP_K, Setting


def with_tail(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of `ids` ([tokens, k]) and of all other ids together: [tokens, k + 1]."""
    others = log_probs.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_probs.gather(1, ids), others], dim=1)


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Mean forward KL of log-probabilities, [tokens, buckets]."""
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
    top = p.topk(TOP_K).indices
    losses = {
        "forward_kl": divergence(p, q),
        "forward_kl_of_top_k": divergence(with_tail(p, top), with_tail(q, top)),
        "cross_entropy": -float(q.gather(1, labels[labels != -100][:, None]).mean()),
    }
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
