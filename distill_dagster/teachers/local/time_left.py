"""How long the rest of a teacher's queue will take, from what its beginning took."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Some requests and the seconds they took, reading (prompts) and writing (answers) apart.

    An engine that cannot tell the two apart counts everything as writing.
    """

    rows: int
    prompt_tokens: int
    reading_s: float = 0.0
    writing_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.reading_s + self.writing_s

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.rows + other.rows,
            self.prompt_tokens + other.prompt_tokens,
            self.reading_s + other.reading_s,
            self.writing_s + other.writing_s,
        )


def seconds_left(done: Work, *, rows: int, prompt_tokens: int) -> float:
    """Seconds until `rows` more requests with `prompt_tokens` in their prompts are answered.

    Two rates are measured and two sizes known. Reading a prompt costs its tokens, which are known for every request
    left; per row it would be too much, since the longest prompts come first. Writing an answer costs its length, which
    nobody knows beforehand; the mean row so far stands for it, because an answer's length follows the question more
    than the prompt's length. Prompt tokens must not stand for it: the short prompts left would then seem to answer
    themselves in no time. Where long prompts do have long answers this errs on the long side, and less and less.
    """
    reading = done.reading_s / done.prompt_tokens * prompt_tokens if done.prompt_tokens else 0.0
    writing = done.writing_s / done.rows * rows if done.rows else 0.0
    return reading + writing
