"""What is told of each picture: the answer, or why there is none — abstained, no fracture suspected, not readable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fxcli.console import console
from fxcli.errors import UsageError
from fxcli.inference.opened import Opened
from fxcli.inference.pipeline import Answer

FOLDS = "train it in folds: fx train RECIPE --folds 5"


class Judge:
    """Turns answers into verdicts.

    Args:
        opened: The model.
        gate: A model that says whether there is a fracture at all, or None.
        sets: Whether prediction sets are wanted.
        abstain: The error that is tolerated among the answered, or None.

    Raises:
        UsageError: The model does not know enough of its errors, or the gate is none.
    """

    def __init__(self, opened: Opened, gate: Opened | None, sets: bool, abstain: float | None) -> None:
        self.opened, self.gate, self.sets = opened, gate, sets
        known = opened.uncertainty
        if (sets and known.sets is None) or (abstain is not None and not known.source):
            raise UsageError(f"{opened.name} knows nothing of its own errors", hint=FOLDS)
        self.least = 0.0 if abstain is None else self._least(abstain)
        if gate and gate.model.info.get("negative_class") is None:
            hint = "a recipe names it: evaluate.negative_class; see recipes/fracatlas.yaml"
            raise UsageError(f"{gate.name} cannot be a gate: it has no class for no fracture", hint=hint)
        if gate and gate.uncertainty.threshold is None:
            console.warn(f"{gate.name} has no threshold of its own: it rejects what it gives less than 0.5; {FOLDS}")
        if known.sets and sets:
            console.note(
                f"sets hold the true class in about {100 * (1 - known.sets.alpha):.0f} of 100 cases "
                f"({known.sets.method}, {known.n_groups} groups)"
            )
            for line in known.sets.notices(opened.model.classes):
                console.note(line)

    @property
    def columns(self) -> list[str]:
        """What stands in a verdict beside the probabilities."""
        unlike = ["unlike_training"] if self.opened.uncertainty.unlike is not None else []
        return [*unlike, *(["set"] if self.sets else []), *(["p_finding"] if self.gate else [])]

    def verdicts(self, answers: Iterable[Answer], files: Sequence[Path]) -> Iterator[dict[str, Any]]:
        """path, status, reason, probabilities [K] and the columns of each picture, in order."""
        findings = self._findings(files)
        for answer in answers:
            finding = next(findings)
            yield self._verdict(answer, finding)

    def _verdict(self, answer: Answer, finding: float | None) -> dict[str, Any]:
        found: dict[str, Any] = {"path": answer.path}
        if answer.members is None:
            return found | {"status": "error", "reason": answer.reason}
        said = self.opened.say(answer)
        if said.unlike is not None:
            found["unlike_training"] = said.unlike
        if finding is not None:
            found["p_finding"] = round(finding, 6)
            if finding < self._threshold:
                reason = f"the gate gives a fracture {finding:.3f}, below {self._threshold:.3f}"
                return found | {"status": "no_fracture_suspected", "reason": reason}
        top = float(said.probabilities.max())
        found |= {"probabilities": said.probabilities}
        if self.sets and said.classes is not None:
            classes = self.opened.model.classes
            found["set"] = [name for name, inside in zip(classes, said.classes, strict=True) if inside]
        if top < self.least:
            return found | {"status": "abstained", "reason": f"top probability {top:.3f} is below {self.least:.3f}"}
        return found

    def _findings(self, files: Sequence[Path]) -> Iterator[float | None]:
        """What the gate gives a fracture, for each file."""
        if self.gate is None:
            while True:
                yield None
        negative = self.gate.model.classes.index(str(self.gate.model.info["negative_class"]))
        for answer in self.gate.pipeline.run(files):
            yield None if answer.members is None else float(1 - self.gate.say(answer).probabilities[negative])

    @property
    def _threshold(self) -> float:
        known = None if self.gate is None else self.gate.uncertainty.threshold
        return 0.5 if known is None else known

    def _least(self, error: float) -> float:
        """The least top probability that is answered."""
        known = self.opened.uncertainty
        found = known.abstains_below(error)
        if found is None:
            possible = ", ".join(f"{target:g}" for target, _ in known.abstentions) or "none"
            raise UsageError(
                f"--abstain {error:g}: on its out-of-fold answers the model keeps no such error at any threshold",
                hint=f"errors that it can keep: {possible}",
            )
        return found
