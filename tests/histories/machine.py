"""Any history of edits, runs and kills as a state machine, and the comparison with a clean run that ends it."""

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.histories.artifacts import dataset, differences, evaluations, partitioned, students
from tests.histories.declared import (
    BROKEN,
    CURATION,
    DAYS,
    GOLDEN,
    HOSTED,
    LOCAL,
    LOGITS,
    PARTITIONS,
    PROMPTS,
    STUDENT_PROMPT,
    TEXTS,
    TOPICS,
    Declared,
    Row,
    row,
)
from tests.histories.forking import KILLED, Death
from tests.histories.in_dagster import untold
from tests.histories.world import NAME, Books, Teacher, World, killed_after

numbers = st.integers(0, 1_000)
texts, topics, days = st.sampled_from(TEXTS), st.sampled_from(TOPICS), st.sampled_from(DAYS)
deaths = st.builds(Death, st.sampled_from(["file", "commit"]), st.integers(1, 60))
untold_deaths = st.builds(Death, st.just("pointer"), st.integers(1, 9))
UNTIL = ("prompts", "teacher_outputs", "dataset", "student")
CANNOT = ("no row is left to train on", "no rows in the test split")


def choices(block: str, keys: dict[str, tuple[Any, ...]]) -> st.SearchStrategy[tuple[str, str, Any]]:
    """A key of a block with one of its values."""
    return st.one_of([st.tuples(st.just(block), st.just(key), st.sampled_from(given)) for key, given in keys.items()])


class AnyHistory(RuleBasedStateMachine):
    """Edits are written, commands run or die; at the end all is as a clean run makes it.

    Attributes:
        compared: names of the artifacts that were there to be compared at the ends of histories.
    """

    world: World
    books: Books
    compared: set[str]

    def make(self) -> None:
        """A new project: `world`, `books` and `compared`."""
        raise NotImplementedError

    def blocks(self) -> dict[str, dict[str, Any]]:
        """The declaration that every history starts from."""
        raise NotImplementedError

    @initialize(keyed=st.booleans(), further=st.lists(st.tuples(texts, topics, days), max_size=4))
    def begin(self, keyed: bool, further: list[tuple[str, str, str]]) -> None:
        self.make()
        sown = [(text, TOPICS[at % 3], DAYS[at % 2]) for at, text in enumerate(TEXTS)] + further
        self.number = len(sown)
        rows = tuple(row(number, *values) for number, values in enumerate(sown))
        declared = Declared(rows, self.blocks())
        self.past: list[Declared] = []
        self.declare(declared.flipped("prompts", "id", "ticket") if keyed else declared)

    def declare(self, declared: Declared) -> None:
        self.past.append(declared)
        self.world.declare(declared)

    @property
    def declared(self) -> Declared:
        return self.past[-1]

    def rows(self, rows: list[Row]) -> None:
        self.declare(Declared(tuple(rows), self.declared.blocks, self.declared.golden, self.declared.held_out))

    @rule(at=numbers, text=texts)
    def edit_a_prompt(self, at: int, text: str) -> None:
        self._edit(at, "question", text)

    @rule(at=numbers, topic=topics)
    def move_a_row(self, at: int, topic: str) -> None:
        self._edit(at, "topic", topic)

    @rule(at=numbers, day=days)
    def date_a_row(self, at: int, day: str) -> None:
        self._edit(at, "day", day)

    @rule(at=numbers)
    def edit_a_reference(self, at: int) -> None:
        self._edit(at, "answer", "Another reference.")

    @rule(at=numbers)
    def break_a_row(self, at: int) -> None:
        self._edit(at, "question", BROKEN)

    @precondition(lambda self: self.declared.is_broken)
    @rule()
    def mend_the_rows(self) -> None:
        self.declare(self.declared.mended())

    @rule(added=st.lists(st.tuples(texts, topics, days), min_size=1, max_size=4))
    def add_rows(self, added: list[tuple[str, str, str]]) -> None:
        new = [row(self.number + number, *values) for number, values in enumerate(added)]
        self.number += len(new)
        self.rows([*self.declared.rows, *new])

    @rule(at=numbers)
    def copy_a_row(self, at: int) -> None:
        self.rows([*self.declared.rows, self.declared.rows[at % len(self.declared.rows)]])

    @precondition(lambda self: len(self.declared.rows) > 4)
    @rule(at=numbers, count=st.integers(1, 3))
    def remove_rows(self, at: int, count: int) -> None:
        rows = list(self.declared.rows)
        start = at % len(rows)
        self.rows(rows[:start] + rows[start + count :])

    @rule(reverse=st.booleans(), at=numbers)
    def reorder_rows(self, reverse: bool, at: int) -> None:
        rows = list(self.declared.rows)
        cut = at % len(rows)
        self.rows(rows[::-1] if reverse else rows[cut:] + rows[:cut])

    @rule(to=numbers)
    def undo(self, to: int) -> None:
        self.declare(self.past[to % len(self.past)])

    @rule(choice=choices("prompts", PROMPTS))
    def flip_the_prompts(self, choice: tuple[str, str, Any]) -> None:
        self.declare(self.declared.flipped(*choice))

    @rule(partition=st.sampled_from(PARTITIONS))
    def cut_otherwise(self, partition: Any) -> None:
        self.declare(self.declared.flipped("prompts", "partition", partition))

    @rule(choice=st.one_of(choices("curation", CURATION), choices("student_prompt", STUDENT_PROMPT)))
    def flip_the_dataset(self, choice: tuple[str, str, Any]) -> None:
        self.declare(self.declared.flipped(*choice))

    @rule(golden=st.sampled_from(GOLDEN), held_out=st.one_of(st.none(), topics))
    def hold_out(self, golden: tuple[str, ...], held_out: str | None) -> None:
        self.declare(Declared(self.declared.rows, self.declared.blocks, golden, held_out))

    @rule()
    def run(self) -> None:
        self.check(*self.world.distill("run", NAME))

    @rule(until=st.sampled_from(UNTIL))
    def run_until(self, until: str) -> None:
        self.check(*self.world.distill("run", NAME, "--until", until))

    @rule(at=numbers)
    def run_a_partition(self, at: int) -> None:
        """It is refused where the source has no such partition."""
        names = self.declared.partitions
        self.check(*self.world.distill("run", NAME, "--partition", names[at % len(names)]), may_fail=True)

    @rule()
    def run_twice_at_once(self) -> None:
        both = [self.world.start("run", NAME) for _ in range(2)]
        for process in both:
            code = process.wait()
            self.look(code, process.output, may_fail=False)
        self.books.check()

    @rule(death=deaths)
    def run_and_die(self, death: Death) -> None:
        process = self.world.start("run", NAME, death=death)
        self.check(process.wait(), process.output, may_fail=True)

    @rule()
    def collect_garbage(self) -> None:
        code, said = self.world.distill("gc", NAME)
        assert code == 0, said
        self.books.check()

    def check(self, code: int, said: str, *, may_fail: bool = False) -> None:
        """Looks at the books after a run, and at how it ended."""
        self.look(code, said, may_fail=may_fail)
        self.books.check(kills=int(code == KILLED))

    def look(self, code: int, said: str, *, may_fail: bool) -> None:
        """A run ends well, or for a reason."""
        assert "Traceback" not in said, said
        assert code in (0, 1, KILLED), said
        assert code != KILLED or may_fail
        expected = self.declared.is_broken or may_fail or any(reason in said for reason in CANNOT)
        assert code == 0 or expected, said

    def _edit(self, at: int, column: str, value: str) -> None:
        rows = list(self.declared.rows)
        rows[at % len(rows)] = {**rows[at % len(rows)], column: value}
        self.rows(rows)

    def end(self) -> None:
        """What comes before the last run."""
        if self.declared.is_broken:
            self.mend_the_rows()

    def teardown(self) -> None:
        """The last run, and the clean one that it is compared with."""
        if not hasattr(self, "past"):
            return
        self.end()
        code, said = self.world.distill("run", NAME)
        self.check(code, said)
        before = self.books.paid
        clean = self.world.clean(self.world.root.with_name(f"{self.world.root.name}-clean"))
        clean_code, clean_said = clean.distill("run", NAME)
        assert (code, before) == (clean_code, self.books.paid), f"{said}\n---\n{clean_said}"
        assert clean.stored() == self.world.stored()
        self.compare(self.world, clean, whole=code == 0)
        if code == 0:
            code, said = self.world.distill("run", NAME)
            assert "nothing to do" in said, said
            assert untold(self.world.distillation) == []

    def compare(self, world: World, clean: World, *, whole: bool) -> None:
        """Everything that readers find."""
        history, made = world.distillation, clean.distillation
        looks = [partitioned, *([dataset, students, evaluations] if whole else [])]
        wrong = []
        for look in looks:
            found = look(history)
            wrong += differences(found, look(made))
            self.compared.update(name for name, value in found.items() if value)
        assert not wrong, "\n".join(wrong)


class HostedHistory(AnyHistory):
    """With a hosted teacher, whose server counts what is paid."""

    teacher: Teacher

    @rule(choice=choices("teacher", HOSTED))
    def flip_the_teacher(self, choice: tuple[str, str, Any]) -> None:
        self.declare(self.declared.flipped(*choice))

    @rule(death=st.one_of(deaths, untold_deaths))
    def run_and_die(self, death: Death) -> None:
        super().run_and_die(death)

    def end(self) -> None:
        """An edit, after which a run dies before Dagster knows of it, and another one that is undone."""
        super().end()
        self.run()
        last = self.declared.otherwise("curation", "near_duplicate_threshold", CURATION["near_duplicate_threshold"])
        self.declare(last)
        self.run_and_die(Death("pointer", 1))
        self.run()
        self.declare(last.otherwise("prompts", "system", PROMPTS["system"]))
        self.run_until("teacher_outputs")
        self.declare(last)

    @rule(answers=st.integers(1, 12))
    def run_and_be_killed(self, answers: int) -> None:
        self.check(*killed_after(self.world, self.teacher, answers, "run", NAME), may_fail=True)

    @rule()
    def run_what_was_planned(self) -> None:
        code, said = self.world.distill("plan", NAME, "--json")
        if code == 0:
            planned = json.loads(said)["calls"]
            before = self.books.paid
            self.run()
            assert self.books.paid - before <= planned["needed"] + planned["in_batches"], said


class LocalHistory(AnyHistory):
    """With a local teacher in fp32, captured logits and a student."""

    @rule(choice=st.one_of(choices("teacher", LOCAL), choices("logits", LOGITS)))
    def flip_the_teacher(self, choice: tuple[str, str, Any]) -> None:
        self.declare(self.declared.flipped(*choice))

    @rule(step=st.integers(1, 12))
    def run_and_die_in_the_worker(self, step: int) -> None:
        self.run_and_die(Death("worker", step))
