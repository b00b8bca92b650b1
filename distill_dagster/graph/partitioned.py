"""The partitioned assets, prompts, teacher_outputs and teacher_logits, as one multi-asset.

It yields nothing and logs a materialisation per finished partition instead: that way a run over many
partitions gives each its own data version, and one failed partition leaves the others as they are. Nothing
downstream may be selected in the same run, for Dagster would skip it silently.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg

from distill_dagster.graph.checks import output_checks
from distill_dagster.graph.columns import column_lineage
from distill_dagster.graph.face import face
from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.finding import Check
from distill_dagster.graph.keys import VERSION_TAG, asset_key
from distill_dagster.graph.metadata import (
    SAMPLE_ROWS,
    asked_observation,
    captured_observation,
    logits_metadata,
    outputs_metadata,
    prompts_metadata,
    waiting_observation,
)
from distill_dagster.graph.partitions import partitions_of
from distill_dagster.graph.pools import mark_step
from distill_dagster.graph.prompt_checks import prompt_checks
from distill_dagster.graph.worker import observing, pipes_launch
from distill_dagster.logits.build import ASSET as LOGITS
from distill_dagster.logits.build import build_logits
from distill_dagster.logits.declared import needs_logits
from distill_dagster.logits.estimate import require_room
from distill_dagster.logits.index import INDEX_SCHEMA
from distill_dagster.progress import tell
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import PromptBuild, build_prompts
from distill_dagster.prompts.profile import keep_profile, retire_profiles
from distill_dagster.prompts.store import PROMPTS_SCHEMA, write_prompts, write_settings, write_skipped
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.outputs import (
    OUTPUTS_SCHEMA,
    OutputsBuild,
    build_outputs,
    make_teacher,
    read_outputs,
    remove_partitions,
)
from distill_dagster.teachers.store.spending import Meter

Metadata = Mapping[str, dg.MetadataValue]


class PartitionedConfig(dg.Config):
    """Narrows a run over a range of partitions to some of them, and says how patient it is.

    Attributes:
        partitions: only these; with none of them a run collects what provider batches have ready, and no more.
        wait: whether to stay until provider batches have ended; else the sensor collects them.
        planned_calls: the teacher calls that a plan counted, and the most that are made; without a plan as many as
            there are.
    """

    partitions: list[str] | None = None
    wait: bool = False
    planned_calls: int | None = None


def partitioned_config(
    distillation: str, partitions: Sequence[str], *, wait: bool, planned_calls: int | None = None
) -> dict[str, object]:
    """Run config of a run over some partitions."""
    config: dict[str, object] = {"partitions": list(partitions), "wait": wait}
    if planned_calls is not None:
        config["planned_calls"] = planned_calls
    return {"ops": {op_name(distillation): {"config": config}}}


def op_name(distillation: str) -> str:
    """The step that makes the partitioned assets."""
    return f"{distillation}__partitioned"


def partitioned_assets(distillation: Distillation, pool: str | None = None) -> dg.AssetsDefinition:
    """`prompts[p]`, `teacher_outputs[p]` and, where needed, `teacher_logits[p]`: one step in the teacher's pool."""
    name = distillation.name
    prompts, outputs = asset_key(name, "prompts"), asset_key(name, "teacher_outputs")
    logits = asset_key(name, LOGITS)

    @dg.multi_asset(
        name=op_name(name),
        specs=[
            dg.AssetSpec(prompts, skippable=True, **face(distillation, "prompts", columns=PROMPTS_SCHEMA)),
            dg.AssetSpec(
                outputs,
                deps=[prompts],
                skippable=True,
                **face(distillation, "teacher_outputs", columns=OUTPUTS_SCHEMA),
            ),
            *(
                [
                    dg.AssetSpec(
                        logits, deps=[outputs], skippable=True, **face(distillation, LOGITS, columns=INDEX_SCHEMA)
                    )
                ]
                if needs_logits(distillation)
                else []
            ),
        ],
        partitions_def=partitions_of(distillation),
        can_subset=True,
        pool=pool,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def partitioned(context: dg.AssetExecutionContext, config: PartitionedConfig):  # type: ignore[no-untyped-def]
        mark_step(context, pool)
        wanted = set(config.partitions) if config.partitions is not None else set(context.partition_keys)
        failed: dict[str, str] = {}
        with as_failure():
            if prompts in context.selected_asset_keys:
                failed |= _make_prompts(context, distillation, prompts, wanted)
                _log_checks(context, prompt_checks(distillation))
            if logits in context.selected_asset_keys:
                require_room(distillation, sorted(wanted.difference(failed)))
            if outputs in context.selected_asset_keys:
                with observing(context, outputs):
                    failed |= _make_outputs(context, distillation, outputs, sorted(wanted.difference(failed)), config)
                _log_checks(context, output_checks(distillation))
            if logits in context.selected_asset_keys:
                with observing(context, logits):
                    _make_logits(context, distillation, logits, wanted.difference(failed))
        if failed:
            raise dg.Failure(description=_failures(failed), allow_retries=False)
        yield from ()

    return partitioned


def partitioned_checks(distillation: Distillation) -> list[Check]:
    """The checks on partitioned assets.

    Dagster would skip a check in the same run as assets that yield nothing. So their step logs the evaluations itself,
    and the checks stand alone beside it for whoever runs one by itself.
    """
    return [*prompt_checks(distillation), *output_checks(distillation)]


def _make_prompts(
    context: dg.AssetExecutionContext, distillation: Distillation, key: dg.AssetKey, wanted: set[str]
) -> dict[str, str]:
    build: PromptBuild = build_prompts(distillation)
    started = datetime.now(UTC).isoformat()
    if build.is_complete:
        remove_partitions(distillation, build.names)
        retire_profiles(distillation, build.names, started)
    if build.bad:
        context.log.warning(
            f"{len(build.bad)} rows are no prompts; they are listed in {write_skipped(distillation, build.bad)}"
        )
    write_settings(distillation, build.render_key, build.settings)
    for partition in sorted(wanted.intersection(build.partitions)):
        made = build.partitions[partition]
        keep_profile(distillation, partition, made, started)
        write_prompts(distillation, partition, made)
        _materialised(context, key, partition, made.version, prompts_metadata(distillation, made))
    failed = {partition: message for partition, message in build.failed.items() if partition in wanted}
    return failed


def _make_outputs(
    context: dg.AssetExecutionContext,
    distillation: Distillation,
    key: dg.AssetKey,
    wanted: list[str],
    config: PartitionedConfig,
) -> dict[str, str]:
    present = sorted(set(wanted).intersection(distillation.files.partitions("prompts")))
    teacher = make_teacher(distillation, pipes_launch(context))
    meter = None if distillation.spec.teacher.is_local else Meter(distillation, context.run_id)
    if not present and isinstance(teacher, AnthropicTeacher):
        from distill_dagster.graph.open_batches import collect_ended

        collect_ended(distillation, teacher, context.run_id)
    build: OutputsBuild = build_outputs(
        distillation, present, teacher, run=context.run_id, wait=config.wait, most_calls=config.planned_calls
    )
    for partition, made in build.partitions.items():
        metadata = outputs_metadata(distillation, made, read_outputs(distillation, partition, rows=SAMPLE_ROWS))
        _materialised(context, key, partition, made.version, metadata)
    paid = meter.read() if meter else None
    if build.asked.needed or (paid and paid.answers):
        observation = asked_observation(key, build.asked, paid, config.planned_calls)
        context.log_event(observation)
        if config.planned_calls is not None:
            tell(str(observation.description))
    if build.waiting:
        observation = waiting_observation(key, build.waiting)
        context.log.info(observation.description)
        context.log_event(observation)
    return build.failed


def _make_logits(
    context: dg.AssetExecutionContext, distillation: Distillation, key: dg.AssetKey, wanted: set[str]
) -> None:
    answered = sorted(wanted.intersection(distillation.files.partitions("teacher_outputs")))
    build = build_logits(distillation, answered, pipes_launch(context))
    for partition, made in build.partitions.items():
        _materialised(context, key, partition, made.version, logits_metadata(made))
    if build.sequences:
        context.log_event(captured_observation(key, build))


def _log_checks(context: dg.AssetExecutionContext, checks: Iterable[Check]) -> None:
    for check in checks:
        context.log_event(check.evaluation())


def _materialised(
    context: dg.AssetExecutionContext, key: dg.AssetKey, partition: str, version: str, metadata: Metadata
) -> None:
    lineage = column_lineage(*key.path)
    event = dg.AssetMaterialization(
        key, partition=partition, metadata={**metadata, **lineage}, tags={VERSION_TAG: version}
    )
    context.log_event(event)


def _failures(failed: Mapping[str, str]) -> str:
    by_message: dict[str, list[str]] = {}
    for partition, message in sorted(failed.items()):
        by_message.setdefault(message, []).append(partition)
    lines = [f"{', '.join(partitions)}: {message}" for message, partitions in by_message.items()]
    return f"{len(failed)} partition(s) failed, what is finished is kept:\n" + "\n".join(lines)
