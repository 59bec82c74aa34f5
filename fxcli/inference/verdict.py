"""What is told of each picture: the answer, or why there is none — abstained, no fracture suspected, not readable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fxcli import __version__
from fxcli.console import console
from fxcli.errors import UsageError
from fxcli.evaluation.box_table import COLUMNS
from fxcli.inference.detected import BoxesBeside, Sighting
from fxcli.inference.opened import Opened
from fxcli.inference.pipeline import Answer

_FOLDS = "train it in folds: fx train RECIPE --folds 5"
# Of a gate that was fitted to nothing.
_EVEN = 0.5


class Judge:
    """Turns answers into verdicts.

    Args:
        opened: The model.
        gate: A model that says whether there is a fracture at all, or None.
        sets: Whether prediction sets are wanted.
        abstain: The error that is tolerated among the answered, or None.
        boxes: A detector that looks, too, or None.

    Raises:
        UsageError: The model does not know enough of its errors, or the gate is none.
    """

    def __init__(
        self,
        opened: Opened,
        gate: Opened | None,
        *,
        sets: bool,
        abstain: float | None,
        boxes: BoxesBeside | None = None,
    ) -> None:
        self.boxes = boxes
        self.opened, self.gate, self.sets, self.abstain = opened, gate, sets, abstain
        known = opened.uncertainty
        if (sets and known.sets is None) or (abstain is not None and not known.source):
            raise UsageError(f"{opened.name} knows nothing of its own errors", hint=_FOLDS)
        self.least = 0.0 if abstain is None else self._least(abstain)
        # What the gate gives a finding, by index; or why it could not read the picture.
        self.findings: list[float | str] = []
        if gate is not None:
            self._check(gate)
        if known.sets and sets:
            # What is proven of CV+ is less than what it does.
            is_cross = known.sets.method == "cv+"
            least = f", and in about {100 * known.sets.proven:.0f} at least" if is_cross else ""
            console.note(
                f"sets hold the true class in about {100 * (1 - known.sets.alpha):.0f} of 100 cases{least} "
                f"({known.sets.method}, {known.n_groups} groups)"
            )
            for line in known.sets.notices(opened.model.classes):
                console.note(line)

    @property
    def columns(self) -> list[str]:
        """What stands in a verdict beside the probabilities."""
        unlike = ["unlike_training"] if self.opened.uncertainty.unlike is not None else []
        located = COLUMNS if self.boxes else ()
        return [*unlike, *(["set"] if self.sets else []), *(["p_finding"] if self.gate else []), *located]

    def made_with(self) -> dict[str, Any]:
        """All that what is told of a picture depends on, but the picture."""
        engine = self.opened.pipeline.engine
        before = self.gate.pipeline.engine if self.gate else None
        return {
            "fx": __version__,
            "model": self.opened.digest,
            "gate": self.gate.digest if self.gate else None,
            "engine": engine.name,
            "precision": engine.precision,
            **({"gate_engine": before.name, "gate_precision": before.precision} if before else {}),
            "draft": self.opened.pipeline.draft,
            "sets": self.sets,
            "abstain": self.abstain,
            **(self.boxes.made_with() if self.boxes else {}),
        }

    def ask_gate(self, files: Sequence[Path]) -> None:
        """Runs the gate over pictures, before the model runs over the same: it decides what is told of them, and drawn.

        Answers must then be numbered as these pictures are.
        """
        self.findings = []
        if self.gate is None:
            return
        negative = self.gate.model.classes.index(str(self.gate.model.info["negative_class"]))
        for answer in console.progress(self.gate.pipeline.run(files), total=len(files), what="gate"):
            is_read = answer.members is not None
            self.findings.append(float(1 - self.gate.say(answer).probabilities[negative]) if is_read else answer.reason)

    def verdict(self, answer: Answer) -> dict[str, Any]:
        """Path, status, reason, probabilities [K] and the columns of a picture; and cautions, which end the reason."""
        return self.seen(answer)[0]

    def seen(self, answer: Answer) -> tuple[dict[str, Any], Sighting | None]:
        """The same, and what a detector saw on the picture, if one looked."""
        found, sighting = self._verdict(answer), None
        if self.boxes is not None and found["status"] != "error":
            located, sighting = self.boxes.look(answer.path)
            # Half an answer is none, as behind a gate: --resume tries it again.
            found = {"path": answer.path, **located} if "status" in located else found | located
        reasons = [*([found["reason"]] if "reason" in found else []), *answer.cautions]
        why = {"reason": "; ".join(reasons)} if reasons else {}
        return found | why | {"cautions": answer.cautions}, sighting

    def _verdict(self, answer: Answer) -> dict[str, Any]:
        found: dict[str, Any] = {"path": answer.path, "status": "ok"}
        if answer.members is None:
            return found | {"status": "error", "reason": answer.reason}
        if not self.opened.model.classes:
            return found  # of a pretrained backbone, which has no answer
        said = self.opened.say(answer, sets=self.sets)
        if said.unlike is not None:
            found["unlike_training"] = said.unlike
        if self.gate is not None:
            finding = self.findings[answer.index]
            if isinstance(finding, str):
                return found | {"status": "error", "reason": f"the gate cannot read it: {finding}"}
            found["p_finding"] = round(finding, 6)
            threshold = self.gate.uncertainty.threshold
            least = _EVEN if threshold is None else threshold
            if finding < least:
                reason = f"the gate gives a fracture {finding:.3f}, below {least:.3f}"
                return found | {"status": "no_fracture_suspected", "reason": reason}
        found["probabilities"] = said.probabilities
        if said.classes is not None:
            classes = self.opened.model.classes
            found["set"] = [name for name, inside in zip(classes, said.classes, strict=True) if inside]
        top = float(said.probabilities.max())
        if top < self.least:
            return found | {"status": "abstained", "reason": f"top probability {top:.3f} is below {self.least:.3f}"}
        return found

    def _check(self, gate: Opened) -> None:
        """Whether the gate is one, and another model than the one behind it."""
        if gate.model.info.get("negative_class") is None:
            hint = "a recipe names it: evaluate.negative_class; see recipes/fracatlas.yaml"
            raise UsageError(f"{gate.name} cannot be a gate: it has no class for no fracture", hint=hint)
        if self.opened.model.info.get("negative_class") is not None:
            raise UsageError(
                f"{self.opened.name} says itself whether there is a fracture: it needs no gate",
                hint="name the model of fracture types: --model RUN_OR_FILE",
            )
        if "finding" in self.opened.model.classes:
            raise UsageError(
                f"{self.opened.name} has a class called finding, and its column p_finding is the gate's",
                hint="without --gate, or train it with another name of that class: data.classes",
            )
        if gate.uncertainty.threshold is None:
            console.warn(
                f"{gate.name} has no threshold of its own and rejects what it gives less than {_EVEN}; {_FOLDS}"
            )

    def _least(self, error: float) -> float:
        """The least top probability that is answered."""
        known = self.opened.uncertainty
        found = known.abstains_below(error)
        if found is None:
            possible = ", ".join(f"{target:g}" for target, _ in known.abstentions)
            raise UsageError(
                f"--abstain {error:g}: on pictures that it had not seen, the model kept no such error at any threshold",
                hint=f"errors that it can keep: {possible}" if possible else "it can keep none of up to 0.6",
            )
        return found


def open_judge(
    open_one: Callable[[str], Opened], model: str, gate: str | None = None, *, sets: bool, abstain: float | None
) -> Judge:
    """Opens a model and the gate before it.

    Args:
        open_one: Opens a model file.
        model: Its file.
        gate: That of the gate, or None.
        sets: See Judge.
        abstain: See Judge.
    """
    return Judge(open_one(model), open_one(gate) if gate else None, sets=sets, abstain=abstain)
