"""What a run found: counts of what was sent and of what came back, and every breach."""

from collections import Counter

_SHOWN = 20


class Findings:
    """Adds up. ``breaches`` is empty after a good run."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.answers: dict[str, Counter[str]] = {}
        self.breaches: list[str] = []

    def count(self, part: str, inputs: int = 1) -> None:
        """Count inputs of a part of the run."""
        self.sent[part] += inputs

    def answered(self, part: str, answer: object) -> None:
        """Count an answer: an error's code, a close code, a status."""
        self.answers.setdefault(part, Counter())[str(answer)] += 1

    def breach(self, what: str, sent: bytes | str = "") -> None:
        """Take down what must not happen, with the input that made it happen."""
        shown = sent if len(sent) <= 300 else sent[:300]
        self.breaches.append(f"{what}{f': {shown!r} ({len(sent)} long)' if sent else ''}")

    def show(self) -> None:
        """Print a line for each part, then the breaches."""
        for part, count in self.sent.items():
            answers = self.answers.get(part, Counter())
            shown = ", ".join(f"{answer} {number}" for answer, number in answers.most_common(9))
            print(f"  {part:<28} {count:>7}   {shown}")
        print(f"  {'in all':<28} {self.sent.total():>7}")
        for breach in self.breaches[:_SHOWN]:
            print(f"  BREACH {breach}")
        if len(self.breaches) > _SHOWN:
            print(f"  … and {len(self.breaches) - _SHOWN} more")
