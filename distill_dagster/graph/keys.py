"""Names of assets and tags in Dagster."""

import dagster as dg

CODE_VERSION = "1"
MISSING_PARTITION = "all"
VERSION_TAG = "dagster/data_version"
DISTILLATION_TAG = "distill/distillation"


def asset_key(distillation: str, asset: str, name: str | None = None) -> dg.AssetKey:
    """`<distillation>/<asset>` or `<distillation>/<asset>/<name>`."""
    return dg.AssetKey([distillation, str(asset), *([name] if name else [])])
