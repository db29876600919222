"""The competition's metric as a profile names it: `metric: map50`, or a name with options.

    metric: {name: wheat, ious: [0.5, 0.75, 0.05]}

What each metric measures is written beside its code in `pipeline/scoring/metrics.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError

# Names, and the options of each with their defaults: `iou` a threshold, `ious` the first and the
# last threshold and the step, `strict` whether an IoU must exceed the threshold or reach it.
METRICS: dict[str, dict[str, Any]] = {
    "map50": {},
    "map50_95": {},
    "voc_ap": {"iou": 0.5, "strict": False},
    "wheat": {"ious": (0.5, 0.75, 0.05), "strict": False},
    "f1": {"ious": (0.5, 0.5, 0.05), "strict": False},
    "f2": {"ious": (0.3, 0.8, 0.05), "strict": False},
}


@dataclass(frozen=True)
class MetricSpec:
    """A metric's name and its options, all of them, defaults filled in."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As `wheat (ious 0.5 to 0.75 by 0.05)`: scores of other options are other scores."""
        parts = []
        for key, value in self.options.items():
            if key == "strict":
                parts += ["strict"] if value else []
            else:
                text = "{:g} to {:g} by {:g}".format(*value) if key == "ious" else f"{value:g}"
                parts.append(f"{key} {text}")
        return f"{self.name} ({', '.join(parts)})" if parts else self.name


def parse_metric(value: Any) -> MetricSpec:
    """A metric from a profile's `metric`: a name, or a mapping with `name` and its options.

    Raises PipelineError for an unknown name or option, and for thresholds outside (0, 1].
    """
    if isinstance(value, MetricSpec):
        return value
    given = {"name": value} if isinstance(value, str) else value
    name = given.get("name") if isinstance(given, dict) else given
    if not isinstance(given, dict) or not isinstance(name, str) or name not in METRICS:
        raise PipelineError(f"metric '{name}' is not known; known: {', '.join(METRICS)}")
    name, options = given["name"], {key: value for key, value in given.items() if key != "name"}
    known = METRICS[name]
    for key, option in options.items():
        if key not in known:
            raise PipelineError(
                f"metric '{name}' has no option '{key}'; it has: {', '.join(known) or 'none'}"
            )
        options[key] = _checked(name, key, option)
    return MetricSpec(name, known | options)


def _checked(metric: str, key: str, value: Any) -> Any:
    if key == "strict":
        if not isinstance(value, bool):
            raise PipelineError(f"metric '{metric}': strict {value!r}: expected true or false")
        return value
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    expected = "first, last and step of IoU thresholds in (0, 1]" if key == "ious" else "an IoU in (0, 1]"
    if (
        len(numbers) != (3 if key == "ious" else 1)
        or not all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 < n <= 1 for n in numbers)
        or (key == "ious" and numbers[0] > numbers[1])
    ):
        raise PipelineError(f"metric '{metric}': {key} {value!r}: expected {expected}")
    return tuple(float(n) for n in numbers) if key == "ious" else float(numbers[0])
