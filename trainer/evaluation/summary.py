"""What the report says in sentences: each follows from numbers of `result.json`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.data.ledger import commonest_class
from trainer.evaluation import sign_test, wilson_interval

# How numbers, settings and lists of names read in a report.

_MOST_NAMES = 10


def percent(share: float) -> str:
    """A share of 0…1 in percent."""
    return f"{share:.1%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")


def duration(seconds: float) -> str:
    """A time in the units that it is spoken of."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def value(setting: object) -> str:
    """A setting as it is typed after its flag; – for an empty one."""
    return (str(setting).lower() if isinstance(setting, bool) else str(setting)) or "–"


def names(classes: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(classes)
    more = (
        f"; {len(every) - _MOST_NAMES:,} more classes are not shown"
        if len(every) > _MOST_NAMES
        else ""
    )
    return ", ".join(every[:_MOST_NAMES]) + more


# What the numbers of a run say in words, and nothing that they do not support.

# How a statement is meant: a strength, a weakness, or more pictures needed to tell.
GOOD, BAD, UNCLEAR = "good", "bad", "unclear"


def read_run(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Reads one run.

    Args:
        result: what `result.json` holds.

    Returns:
        Statements: `about`, `verdict` (good, bad or unclear) and `text`.
    """
    statements = [
        ("baseline", *_baseline(result)),
        ("overfitting", *_overfitting(result)),
        *_stability(result),
        ("classes", *_classes(result["test"])),
        ("probabilities", *_calibration(result)),
        ("not sure", *_unsure(result)),
    ]
    return [_statement(*each) for each in statements]


def read_comparison(
    variants: Mapping[str, Mapping[str, Any]], paired: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Reads each variant against the one before it.

    Args:
        variants: by name, with `test` over seeds and `seeds`.
        paired: `first` and `second`, names of variants, and `test`, what `paired_test` found of
            their runs.

    Returns:
        Statements, as `read_run` gives them.
    """
    statements = []
    for pair in paired:
        first, second, test = pair["first"], pair["second"], pair["test"]
        about = f"{second} against {first}"
        if test is None:
            statements.append(
                _statement(about, UNCLEAR, "They were not tested on the same pictures.")
            )
            continue
        points = 100 * test["difference"]
        apart = test["p_value"] < 0.05 and (points > 0) == (
            test["only_second"] > test["only_first"]
        )
        often = "is right more often on" if max(test["runs"]) > 1 else "alone is right on"
        counts = (
            f"{second} {often} {test['only_second']:,} of {test['n']:,} test pictures, {first} on "
            f"{test['only_first']:,} (exact paired test over pictures: {_p(test['p_value'])})"
        )
        way = f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'} are right"
        text = f"{way if apart else 'Not enough pictures to tell them apart'}: {counts}."
        statements.append(
            _statement(about, (GOOD if points > 0 else BAD) if apart else UNCLEAR, text)
        )
    if any(len(found["seeds"]) == 1 for found in variants.values()):
        text = "One seed does not tell how much another seed would change the result."
        statements.append(_statement("seeds", UNCLEAR, text))
    return statements


def against_baseline(result: Mapping[str, Any]) -> tuple[str, float]:
    """Tests a model against always answering the commonest class: McNemar's exact test.

    Both answer the same test pictures, so that only those count which one alone gets right. The
    baseline is measured on these few pictures too: a binomial test, or an interval around the
    accuracy alone, would take it for known.

    Args:
        result: what `result.json` holds.

    Returns:
        The verdict, and the two-sided p-value. The verdict is UNCLEAR from 0.05 on, as in a
        comparison: that is a one-sided test on either side, each at 2.5 %.
    """
    per_class = result["test"]["per_class"]
    commonest = per_class[commonest_class(result["data"]["counts"]["train"])]
    only_baseline = commonest["n"] - commonest["correct"]
    only_model = sum(found["correct"] for found in per_class.values()) - commonest["correct"]
    p_value = sign_test(only_baseline, only_model)
    if p_value >= 0.05:
        return UNCLEAR, p_value
    return (GOOD if only_model > only_baseline else BAD), p_value


def _baseline(result: Mapping[str, Any]) -> tuple[str, str]:
    test, (verdict, p_value) = result["test"], against_baseline(result)
    low, high = map(percent, test["interval_95"])
    words = {
        GOOD: "Better than guessing",
        BAD: "Worse than guessing",
        UNCLEAR: "Not enough pictures to tell it from guessing",
    }
    text = (
        f"{words[verdict]}: {percent(test['accuracy'])} of {test['n']:,} test pictures are right"
        f" (95 % interval {low} to {high}); always answering the commonest class gets"
        f" {percent(result['baseline_accuracy'])} (exact paired test: {_p(p_value)})."
    )
    return verdict, text


def _overfitting(result: Mapping[str, Any]) -> tuple[str, str]:
    history, kept = result["history"], result["chosen_epoch"]
    losses, accuracies = history["validation_loss"], history["validation_accuracy"]
    if len(losses) < 2:
        return UNCLEAR, "One epoch does not tell whether training went too far."
    n, noise = result["validation"]["n"], _noise(result)
    best = losses.index(min(losses))
    gap = history["accuracy"][kept - 1] - accuracies[kept - 1]
    growth = gap - (history["accuracy"][best] - accuracies[best])
    gaps = (
        f"in epoch {kept}, which was kept, training is {percent(history['accuracy'][kept - 1])}"
        f" right and validation {percent(accuracies[kept - 1])}"
    )
    if gap <= noise / 2:
        return GOOD, f"No overfitting that {n:,} validation pictures can show: {gaps}."
    later = (
        f" The lowest validation loss was in epoch {best + 1}; since then it rose from"
        f" {losses[best]:.3f} to {losses[kept - 1]:.3f}, and the gap by {100 * growth:.1f}"
        " points: use fewer epochs, or --early_stopping."
        if growth > noise / 2
        else ""
    )
    return BAD, f"It overfits by {100 * gap:.1f} points: {gaps}.{later}"


def _stability(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    accuracies = result["history"]["validation_accuracy"]
    late = accuracies[len(accuracies) // 2 :]
    if len(late) < 2:
        return []
    # From the best so far: what only rises does not swing.
    fall = max(max(late[: index + 1]) - accuracy for index, accuracy in enumerate(late))
    said = (
        f"over the last {len(late)} epochs, validation accuracy falls by up to {100 * fall:.1f}"
        " points"
    )
    left_open = (
        f"the {100 * _noise(result):.1f} points that chance alone explains with"
        f" {result['validation']['n']:,} pictures"
    )
    if fall <= _noise(result):
        return [("stability", GOOD, f"Steady: {said}, within {left_open}.")]
    return [("stability", BAD, f"Unsteady: {said}, more than {left_open}.")]


def _noise(result: Mapping[str, Any]) -> float:
    """How much the validation pictures leave uncertain of an accuracy."""
    low, high = result["validation"]["interval_95"]
    return high - low


def _classes(test: Mapping[str, Any]) -> tuple[str, str]:
    seen = {name: found for name, found in test["per_class"].items() if found["n"]}
    worst = min(seen, key=lambda name: seen[name]["recall"])
    best = max(seen, key=lambda name: seen[name]["recall"])
    often = ""
    if test["confused"]:
        cell = test["confused"][0]
        times = f"{cell['n']:,} time{'s' * (cell['n'] > 1)}"
        often = f" The commonest mistake, {times}: {cell['true']} taken for {cell['predicted']}."
    recalls = (
        f"{worst} {percent(seen[worst]['recall'])} of {seen[worst]['n']:,}, {best}"
        f" {percent(seen[best]['recall'])}"
    )
    if best == worst or seen[worst]["recall"] == seen[best]["recall"]:
        return GOOD, f"Every class is recognised equally often.{often}"
    if seen[best]["recall"] - seen[worst]["recall"] > test["recall_spread_by_chance"]:
        return BAD, f"Some classes are harder than others: {recalls}.{often}"
    text = f"Not enough pictures to tell the hardest class from the easiest: {recalls}.{often}"
    return UNCLEAR, text


def _calibration(result: Mapping[str, Any]) -> tuple[str, str]:
    calibration = result["calibration"]
    before, after = calibration["before"], calibration["after"]
    temperature = calibration["temperature"]
    # To the digits that are shown.
    error_rose, loss_rose = (
        round(after[name], 3) > round(before[name], 3) for name in ("error", "loss")
    )
    scaled = f"dividing logits by {temperature:.2f} " + (
        f"made this worse, from {percent(before['error'])} to {percent(after['error'])}"
        if error_rose
        else f"changed this from {percent(before['error'])}"
    )
    if loss_rose:
        scaled += f", and made the loss worse, from {before['loss']:.3f} to {after['loss']:.3f}"
    if temperature == 1:
        scaled = f"{calibration['fitted_on']:,} validation pictures gave no reason to change them"
    error = f"probabilities are off by {percent(after['error'])} on average ({scaled})"
    limit = (
        f"the {percent(after['error_by_chance'])} that chance alone explains with"
        f" {result['test']['n']:,} pictures"
    )
    if after["error"] <= after["error_by_chance"]:
        worse = error_rose or loss_rose
        start = "The temperature made it worse" if worse else "As sure as it should be"
        text = f"{start}: {error}, within {limit}."
        return (UNCLEAR if worse else GOOD), text
    sums = sum(each["n"] * (each["confidence"] - each["accuracy"]) for each in after["bins"])
    text = f"{'Too sure' if sums > 0 else 'Not sure enough'}: {error}, more than {limit}."
    return BAD, text


def _unsure(result: Mapping[str, Any]) -> tuple[str, str]:
    found, n = result["unsure"], result["test"]["n"]
    if not found["lowest_probability"]:
        text = (
            f"It never says that it is not sure: {found['fitted_on']:,} validation pictures are too"
            f" few to choose a threshold, {found['pictures_needed']:,} are needed."
        )
        return UNCLEAR, text
    sure, right = found["sure"], found["sure_correct"]
    low, high = wilson_interval(right, sure) if sure else (0.0, 1.0)
    text = f"It is sure of {sure:,} of {n:,} test pictures" + (
        f", and {percent(right / sure)} of these are right (95 % interval {percent(low)} to"
        f" {percent(high)})"
        if sure
        else ""
    )
    if not found["unsure"]:
        return UNCLEAR, f"{text}."
    others = found["unsure_correct"] / found["unsure"]
    text = f"{text}; of the others, {percent(others)} are right"
    least, _ = wilson_interval(found["unsure"], n)
    if least > found["target"]:
        text = (
            f"{text}. The others are more than the {found['target']:.0%} that were allowed on"
            " validation"
        )
        return BAD, f"{text} pictures."
    helps = low > wilson_interval(found["unsure_correct"], found["unsure"])[1]
    return (GOOD if helps else UNCLEAR, f"{text}.")


def _statement(about: str, verdict: str, text: str) -> dict[str, str]:
    return {"about": about, "verdict": verdict, "text": text}


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
