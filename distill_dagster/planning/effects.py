"""What becomes of an unpartitioned asset, before it is a row of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

from distill_dagster.plan import Asset
from distill_dagster.planning.model import Action, AssetPlan


@dataclass(frozen=True)
class Effect:
    """What becomes of one asset, why, and which earlier version it takes over."""

    action: Action
    why: tuple[str, ...] = ()
    adopts: str | None = None

    @property
    def is_made(self) -> bool:
        """Whether anything is, or may be, made anew: nothing is where the asset stays or an earlier version is back."""
        return self.action != "none" and self.adopts is None

    def plan(self, asset: Asset, name: str | None = None) -> AssetPlan:
        """As a row of the plan."""
        return AssetPlan(asset=asset, name=name, action=self.action, why=self.why, adopts=self.adopts)


@dataclass(frozen=True)
class Downstream:
    """What becomes of everything behind the partitions.

    Attributes:
        students, evaluations, releases: by student.
        dataset_version: the one that students will learn from; None where it hangs on answers to come.
        student_versions: of all students that will be those of that dataset, as far as they are known.
    """

    dataset: Effect
    students: Mapping[str, Effect]
    evaluations: Mapping[str, Effect]
    releases: Mapping[str, Effect]
    dataset_version: str | None
    student_versions: Mapping[str, str]

    def plans(self) -> list[AssetPlan]:
        """As rows of the plan, in the order in which they are made."""
        return [
            self.dataset.plan(Asset.DATASET),
            *(effect.plan(Asset.STUDENT, name) for name, effect in self.students.items()),
            *(effect.plan(Asset.EVALUATION, name) for name, effect in self.evaluations.items()),
            *(effect.plan(Asset.RELEASE, name) for name, effect in self.releases.items()),
        ]
