"""Where a receiver is in a sender's stream, in one word that outlives its process."""

from __future__ import annotations

from dataclasses import dataclass, replace

_COUNTED = (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class Place:
    """What a receiver has handed over to its pipe. It is written to shared memory in one step, so that a death tears nothing.

    Attributes:
        number: the number after the last message that was taken; None before the first.
        missed: how many before it never came, of which the word keeps 24 bits.
        hand: of the last message taken, while it may not be in every queue yet: whether its number in the pipe is odd.
    """

    number: int | None = None
    missed: int = 0
    hand: bool | None = None

    @classmethod
    def of(cls, word: int, missed: int) -> Place:
        """The place that a word stands for.

        :param missed: the whole count, as it was written after an earlier word.
        """
        first, parts = divmod(word, 1 << 26)
        missed += ((parts >> 2) - missed) & _COUNTED
        return cls(first - 1 if first else None, missed, bool(parts & 2) if parts & 1 else None)

    @property
    def word(self) -> int:
        """What `of` reads; 0 for no place at all."""
        first = 0 if self.number is None else self.number + 1
        hand = 0 if self.hand is None else 1 + 2 * self.hand
        return first << 26 | (self.missed & _COUNTED) << 2 | hand

    def move(self, number: int) -> Place:
        """The place before a message of this number, which comes next: those that were passed over will not come."""
        passed = 0 if self.number is None else max(number - self.number, 0)
        return Place(number, self.missed + passed)

    def take(self, *, is_odd: bool) -> Place:
        """The place after the next message, which is in hand from now on.

        :param is_odd: whether its number in the receiving pipe is odd.
        """
        assert self.number is not None
        return replace(self, number=self.number + 1, hand=is_odd)

    def let_go(self) -> Place:
        """What was in hand is in every queue, or given up."""
        return replace(self, hand=None)

    def give_back(self) -> Place:
        """What was in hand is not in every queue: it is the next one again."""
        assert self.number is not None
        return replace(self, number=self.number - 1, hand=None)
