"""What each asset is, in the sentences that Dagster shows on its page; all from the declaration, nothing is read."""

from distill_dagster.logits.declared import needs_logits
from distill_dagster.project import Distillation
from distill_dagster.spec.prompts import PartitionSpec
from distill_dagster.students.card import OBJECTIVES

_SHOWN_CHARS = 100


def describe_prompts(distillation: Distillation) -> str:
    """Where the prompts come from, and how they are cut."""
    prompts = distillation.spec.prompts
    own = f"{distillation.spec.description}\n\n" if distillation.spec.description else ""
    return (
        f"{own}Prompts rendered from {_code(prompts.source.kind, prompts.source.value)}, one a row, each with an id, a "
        f"group and a split. {_partitioned(prompts.partition)}"
    )


def describe_outputs(distillation: Distillation) -> str:
    """Who answers, and what that may cost."""
    teacher = distillation.spec.teacher
    samples = f", {teacher.samples} samples a prompt" if teacher.samples > 1 else ""
    budget = f" The budget is ${teacher.budget_usd:,} over all runs." if teacher.budget_usd is not None else ""
    stored = "made once" if teacher.is_local else "paid for once"
    return (
        f"Answers of `{teacher.model}` ({teacher.provider}){samples}, of at most {teacher.max_tokens:,} tokens. Each "
        f"is stored under its request key and {stored}.{budget}"
    )


def describe_logits(distillation: Distillation) -> str:
    """What is captured of the teacher."""
    spec = distillation.spec.logits
    drawn = " and some drawn from the others" if spec.tail_draws else ""
    kept = f"the {spec.k} most likely tokens{drawn}" if spec.method == "topk" else f"{spec.draws} drawn tokens"
    return (
        f"What the teacher thought at every token of its answers: {kept}, with their log-probabilities. Captured once, "
        "so that students learn from it without the teacher in memory."
    )


def describe_dataset(distillation: Distillation) -> str:
    """What is kept, and what is left out."""
    spec = distillation.spec
    dropped = ", ".join(f"`{reason}`" for reason in dict.fromkeys(spec.curation.drop)) or "what cannot be learnt"
    golden = " Rows that ask what the golden set asks are kept out of train and validation." if spec.golden_set else ""
    logits = " Its answers' captured distributions are in `teacher_logits`." if needs_logits(distillation) else ""
    return (
        "Train, validation and test rows: what students learn from, and what they are measured on. Left out, each row "
        f"with its reason: {dropped}.{golden}{logits}"
    )


def describe_golden_set(distillation: Distillation) -> str:
    """Where the golden rows come from, and what they decide."""
    golden = distillation.spec.golden_set
    source = f" from {_code(golden.kind, golden.value)}" if golden is not None else ""
    decides = " They decide the gate." if distillation.spec.evaluation.gate else ""
    return f"Human-verified prompts and references{source}, which no student learns from.{decides}"


def describe_student(distillation: Distillation, student: str) -> str:
    """What a student starts from, and how it is trained."""
    spec = distillation.spec.students[student]
    if spec.base.prune is not None:
        cut = "the teacher" if spec.base.prune == "teacher" else f"`{spec.base.prune}`"
        base = f"{cut}, cut to {spec.base.layers} layers"
    else:
        base = f"`{spec.base.model}`"
    lora = f", by low-rank adapters of rank {spec.lora.r}" if spec.lora else ""
    return (
        f"Student `{student}`: {base}, trained on {OBJECTIVES[spec.objective, spec.targets]}{lora}. {spec.epochs:g} "
        f"epochs at a learning rate of {spec.learning_rate:g}. A Hugging Face folder of safetensors."
    )


def describe_evaluation(distillation: Distillation, student: str) -> str:
    """Who is compared by what, and the gate."""
    evaluation = distillation.spec.evaluation
    metrics = ", ".join(f"`{name}`" for name in evaluation.metric_names)
    gate = evaluation.gate
    ruled = (
        f" The gate allows a loss of {gate.max_degradation:g} `{gate.metric}` against the teacher on the golden set."
        if gate
        else ""
    )
    return (
        f"Student `{student}`, its undistilled base, the teacher and the other students on the same test rows, by "
        f"{metrics}, with paired {evaluation.confidence:.0%} intervals.{ruled}\n\nThe whole report in a browser: "
        f"`distill report {distillation.name} --student {student} --open`"
    )


def describe_release(distillation: Distillation, student: str) -> str:
    """What is released, and when not."""
    return (
        f"Points at the version of student `{student}` that may be used: it passed its gate, or somebody overrode the "
        "verdict on record. Without either the step fails, nothing is changed, and the release of before stays."
    )


def _partitioned(partition: PartitionSpec | None) -> str:
    if partition is None:
        return "They are one partition."
    if partition.by is not None:
        return f"Each value of the column `{partition.by}` is a partition."
    if partition.shards is not None:
        return f"They are cut into {partition.shards:,} partitions by hash of the id."
    period = "week" if partition.weekly is not None else "month" if partition.monthly is not None else "day"
    return f"Each {period} of the column `{partition.date_column}` is a partition."


def _code(kind: str, value: str) -> str:
    """Where rows come from; of a query only that it is one, for it may hold a password."""
    if kind == "sql":
        return "a DuckDB query"
    text = " ".join(value.replace("`", "'").split())
    return f"`{kind}: {text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + '…'}`"
