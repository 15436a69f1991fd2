"""What the report says in sentences: each follows from numbers of `result.json`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import itemgetter, sub
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
    return _statements(
        ("baseline", *_baseline(result)),
        *_history(result),
        ("classes", *_classes(result["test"])),
        ("probabilities", *_calibration(result)),
        ("not sure", *_unsure(result)),
    )


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
        verdict, text = UNCLEAR, "They were not tested on the same pictures."
        if test is not None:
            points, start = 100 * test["difference"], "Not enough pictures to tell them apart"
            agree = (points > 0) == (test["only_second"] > test["only_first"])
            if agree and test["p_value"] < 0.05:
                verdict, word = (GOOD, "more") if points > 0 else (BAD, "fewer")
                start = f"{abs(points):.1f} points {word} are right"
            often = "is right more often on" if max(test["runs"]) > 1 else "alone is right on"
            text = (
                f"{start}: {second} {often} {test['only_second']:,} of {test['n']:,} test pictures,"
                f" {first} on {test['only_first']:,} (exact paired test over pictures:"
                f" {_p(test['p_value'])})."
            )
        statements.append((f"{second} against {first}", verdict, text))
    if any(len(found["seeds"]) == 1 for found in variants.values()):
        text = "One seed does not tell how much another seed would change the result."
        statements.append(("seeds", UNCLEAR, text))
    return _statements(*statements)


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


def _history(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    history, kept = result["history"], result["chosen_epoch"]
    losses, accuracies = history["validation_loss"], history["validation_accuracy"]
    if len(losses) < 2:
        yield "overfitting", UNCLEAR, "One epoch does not tell whether training went too far."
        return
    # How much the validation pictures leave uncertain of an accuracy.
    low, high = result["validation"]["interval_95"]
    n, noise = result["validation"]["n"], high - low
    gaps = [seen - unseen for seen, unseen in zip(history["accuracy"], accuracies, strict=True)]
    best, gap = losses.index(min(losses)), gaps[kept - 1]
    shown = (
        f"in epoch {kept}, which was kept, training is {percent(history['accuracy'][kept - 1])}"
        f" right and validation {percent(accuracies[kept - 1])}."
    )
    if gap <= noise / 2:
        text = f"No overfitting that {n:,} validation pictures can show: {shown}"
        yield "overfitting", GOOD, text
    else:
        text = f"It overfits by {100 * gap:.1f} points: {shown}"
        if gap - gaps[best] > noise / 2:
            text += (
                f" The lowest validation loss was in epoch {best + 1}; since then it rose from"
                f" {losses[best]:.3f} to {losses[kept - 1]:.3f}, and the gap by"
                f" {100 * (gap - gaps[best]):.1f} points: use fewer epochs, or --early_stopping."
            )
        yield "overfitting", BAD, text
    late = accuracies[len(accuracies) // 2 :]
    if len(late) > 1:
        # From the best so far: what only rises does not swing.
        fall = max(map(sub, accumulate(late, max), late))
        verdict, start, held = (
            (GOOD, "Steady", "within") if fall <= noise else (BAD, "Unsteady", "more than")
        )
        yield (
            "stability",
            verdict,
            (
                f"{start}: over the last {len(late)} epochs, validation accuracy falls by up to"
                f" {100 * fall:.1f} points, {held} the {100 * noise:.1f} points that chance alone"
                f" explains with {n:,} pictures."
            ),
        )


def _classes(test: Mapping[str, Any]) -> tuple[str, str]:
    recalls = [
        (found["recall"], f"{name} {percent(found['recall'])}", found["n"])
        for name, found in test["per_class"].items()
        if found["n"]
    ]
    lowest, worst, n = min(recalls, key=itemgetter(0))
    highest, best, _ = max(recalls, key=itemgetter(0))
    often = ""
    if test["confused"]:
        cell = test["confused"][0]
        times = f"{cell['n']:,} time{'s' * (cell['n'] > 1)}"
        often = f" The commonest mistake, {times}: {cell['true']} taken for {cell['predicted']}."
    if lowest == highest:
        return GOOD, f"Every class is recognised equally often.{often}"
    verdict, start = UNCLEAR, "Not enough pictures to tell the hardest class from the easiest"
    if highest - lowest > test["recall_spread_by_chance"]:
        verdict, start = BAD, "Some classes are harder than others"
    return verdict, f"{start}: {worst} of {n:,}, {best}.{often}"


def _calibration(result: Mapping[str, Any]) -> tuple[str, str]:
    calibration, n = result["calibration"], result["test"]["n"]
    before, after = calibration["before"], calibration["after"]
    # To the digits that are shown.
    error_rose, loss_rose = (
        round(after[name], 3) > round(before[name], 3) for name in ("error", "loss")
    )
    scaled = f"{calibration['fitted_on']:,} validation pictures gave no reason to change them"
    if calibration["temperature"] != 1:
        to = f" to {percent(after['error'])}" if error_rose else ""
        scaled = (
            f"dividing logits by {calibration['temperature']:.2f}"
            f" {'made this worse,' if error_rose else 'changed this'}"
            f" from {percent(before['error'])}{to}"
        )
        if loss_rose:
            scaled += f", and made the loss worse, from {before['loss']:.3f} to {after['loss']:.3f}"
    if by_chance := after["error"] <= after["error_by_chance"]:
        worse = error_rose or loss_rose
        verdict, start = (
            (UNCLEAR, "The temperature made it worse")
            if worse
            else (GOOD, "As sure as it should be")
        )
    else:
        sums = sum(each["n"] * (each["confidence"] - each["accuracy"]) for each in after["bins"])
        verdict, start = BAD, "Too sure" if sums > 0 else "Not sure enough"
    return verdict, (
        f"{start}: probabilities are off by {percent(after['error'])} on average ({scaled}),"
        f" {'within' if by_chance else 'more than'} the {percent(after['error_by_chance'])} that"
        f" chance alone explains with {n:,} pictures."
    )


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
    text = f"It is sure of {sure:,} of {n:,} test pictures"
    if sure:
        text += (
            f", and {percent(right / sure)} of these are right (95 % interval {percent(low)} to"
            f" {percent(high)})"
        )
    if not found["unsure"]:
        return UNCLEAR, f"{text}."
    least, _ = wilson_interval(found["unsure"], n)
    _, most_right = wilson_interval(found["unsure_correct"], found["unsure"])
    text += f"; of the others, {percent(found['unsure_correct'] / found['unsure'])} are right."
    if least > found["target"]:
        allowed = f"the {found['target']:.0%} that were allowed on validation pictures"
        return BAD, f"{text} The others are more than {allowed}."
    return (GOOD if low > most_right else UNCLEAR), text


def _statements(*rows: tuple[str, str, str]) -> list[dict[str, str]]:
    return [dict(zip(("about", "verdict", "text"), row, strict=True)) for row in rows]


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
