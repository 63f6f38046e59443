"""The page of ``benchmarks/accuracy.py``: kept records in, Markdown out. Nothing is run here.

A record is that of ``stgraph evaluate --json`` with, beside it, ``entry`` (what was run), ``training`` (what it cost),
``reads`` (what the model looks at) and ``blocks`` (sums of absolute errors and counts by day and by three hours of the
test part, which the paired test draws from).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from stgraph.evaluate import block_bootstrap, summarise

CONTROLS = ("last_value", "same_slot_yesterday", "same_slot_last_week", "slot_mean")
PROFILE, HOUSE, HOUSE_FIXED = "profile_mlp", "weave", "weave, node codes"
HOUSE_CONTROLS = (*CONTROLS, PROFILE)
ORIENTATION = {  # a peer's own STID code, one seed, 1.5 minutes of training, and the design note's profile MLP
    "los_loop": (3.52, 3.49), "melbourne_scats": (10.45, 10.62), "pems_bay_16": (1.66, 1.66),
    "beijing_subway": (19.74, 15.94)}
LEAST_DAYS = 5  # with fewer the test draws blocks of three hours
LEVEL = 0.05

Record = dict[str, Any]
Models = dict[str, list[Record]]  # by name of the entry, a record a seed
COLUMNS = ("model", "history", "reads", "nodes", "step 3", "step 6", "step 12", "all MAE", f"against {HOUSE}",
           "all RMSE", "all MAPE %", "parameters", "seeds", "steps", "train s", "train CPU s", "peak MB")


# ---------------------------------------------------------------- two entries compared
@dataclass(frozen=True)
class Comparison:
    """The MAE of one entry less that of another, and whether luck could explain it.

    Args:
        difference: Of the means over seeds; negative where the first is better.
        share: The same as a share of the second.
        low: Lower end of the 95 % interval over blocks of the test part.
        high: Upper end.
        p_blocks: Two-sided, blocks drawn; None where there are too few.
        p_seeds: Two-sided, Welch's t over seeds; None for single runs.
        blocks: What was drawn, such as ``31 days``.
    """

    difference: float
    share: float
    low: float | None
    high: float | None
    p_blocks: float | None
    p_seeds: float | None
    blocks: str

    @property
    def p_value(self) -> float | None:
        """The larger of both: a difference must stand against the luck of the days and of the seeds."""
        return max((p for p in (self.p_blocks, self.p_seeds) if p is not None), default=None)

    @property
    def is_clear(self) -> bool:
        """Whether neither the days nor the seeds explain the difference."""
        return self.p_value is not None and self.p_value < LEVEL

    def words(self) -> str:
        """Difference, share, interval and both p values."""
        text = f"{self.difference:+.3f} ({100 * self.share:+.1f} %"
        if self.low is not None and self.high is not None:
            text += f"; 95 % {self.low:+.3f} to {self.high:+.3f} over {self.blocks}, p {probability(self.p_blocks)}"
        return text + (f"; seeds p {probability(self.p_seeds)})" if self.p_seeds is not None else ")")


def compare(first: list[Record], second: list[Record]) -> Comparison:
    """Compare two entries that were scored on the same elements.

    Raises:
        InputError: where they were not.
    """
    mine, theirs = mean_mae(first), mean_mae(second)
    kind = "days" if min(len(records[0]["blocks"]["days"]) for records in (first, second)) >= LEAST_DAYS else "hours"
    over = block_bootstrap(*(pooled(records, kind) for records in (first, second)))
    words = f"{over['days']} " + ("days" if kind == "days" else "blocks of three hours")
    return Comparison(mine - theirs, (mine - theirs) / theirs, over["low"], over["high"], over["p_value"],
                      p_over_seeds(*([record["horizons"]["all"]["mae"] for record in records]
                                     for records in (first, second))), words)


def pooled(records: list[Record], kind: str) -> dict[str, tuple[float, float]]:
    """For each block the sum of absolute errors, mean over seeds, and the count, which all seeds share."""
    return {name: (float(np.mean([record["blocks"][kind][name][0] for record in records])), count)
            for name, (_, count) in records[0]["blocks"][kind].items()}


def p_over_seeds(first: list[float], second: list[float]) -> float | None:
    """Welch's t-test; what gives one number whatever the seed is a constant."""
    if len(first) == len(second) == 1:
        return None
    if 1 in (len(first), len(second)):
        many, one = (first, second[0]) if len(second) == 1 else (second, first[0])
        p = float(stats.ttest_1samp(many, one).pvalue)
    else:
        p = float(stats.ttest_ind(first, second, equal_var=False).pvalue)
    return None if math.isnan(p) else p


def mean_mae(records: list[Record]) -> float:
    """MAE over all steps, mean over seeds."""
    return float(np.mean([record["horizons"]["all"]["mae"] for record in records]))


def ranked(models: Models) -> Models:
    """The entries that the bars rank: scored on the windows of the protocol, and no ablation."""
    return {name: records for name, records in models.items()
            if records[0]["entry"]["role"] in ("model", "control") and is_protocol(records[0])}


def is_protocol(record: Record) -> bool:
    """Whether it was scored on windows of 12 steps in and 12 out."""
    return record["history"] == record["horizon"] == 12


def better_mode(models: Models) -> str | None:
    """Of the house model's modes the one with the lower validation score, mean over seeds."""
    score = {name: np.mean([record["training"]["best_validation"]["score"] for record in models[name]])
             for name in (HOUSE, HOUSE_FIXED) if name in models}
    return min(score, key=lambda name: float(score[name])) if score else None


# ---------------------------------------------------------------- the page
def page(results: dict[str, Models], machine: str) -> str:
    """The whole page, Markdown.

    Args:
        results: For each set and entry the records, one a seed.
        machine: The processor, in words.
    """
    records = [record for models in results.values() for found in models.values() for record in found]
    dates = sorted({record["date"] for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    versions = {", ".join(f"{key} {value}" for key, value in record["versions"].items()) for record in records}
    threads = sorted({record["training"]["threads"] for record in records if record["training"]["threads"]})
    lines = ["# Accuracy", "",
             f"Written by `python benchmarks/accuracy.py`; runs of {when}, {machine}; "
             + " / ".join(sorted(versions)) + f". Training on {join(threads)} thread(s).", "",
             "Protocol: chronological 70/10/20, windows of 12 steps in and 12 out that lie in one part as a whole; "
             "scaler and every descriptor fitted on training rows; masked, in the unit of the source, accumulated over "
             "all elements of the test part (RMSE pooled). MAE at steps 3, 6, 12 and over all 12; several seeds give "
             "mean ± standard deviation. The weights are those of the best validation; nothing was chosen on test "
             "scores. *Reads*: how much of the past a model sees when it forecasts. *Nodes*: any (inductive) or fixed "
             "(transductive). *Steps*: the budget; it is set per model and set for about two minutes of one quiet "
             "thread. *Train s* is wall time beside whatever else ran, *train CPU s* that of the whole training "
             "process with its start and its validations, *peak MB* the larger of training and scoring. Means over "
             "seeds.", "",
             f"*Against {HOUSE}*: difference of the MAE over all steps and p, the larger one of two: a paired "
             f"bootstrap over the days of the test part (over blocks of three hours where it has fewer than "
             f"{LEAST_DAYS} days), errors averaged over seeds, and Welch's t over seeds. Two entries are tied where "
             f"p is {LEVEL} or more.", ""]
    lines += [*summary(results), *verdicts(results), *parts(results)]
    for name, models in results.items():
        lines += section(name, models)
    return "\n".join(lines).rstrip() + "\n"


def summary(results: dict[str, Models]) -> list[str]:
    """MAE over all steps, a column a set; the lowest of each set in bold, and what is tied with it."""
    names = dict.fromkeys(name for models in results.values() for name in ranked(models))
    lines = ["## All sets", "", "MAE over all steps. Bold: the lowest of the set, and what is tied with it.", "",
             "| model | nodes | " + " | ".join(results) + " |", "|" + "---|" * (2 + len(results))]
    for name in names:
        found = [models[name] for models in results.values() if name in models]
        cells = [cell(ranked(models), name) for models in results.values()]
        lines.append(f"| {name} | {'any' if found[0][0]['inductive'] else 'fixed'} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def cell(models: Models, name: str) -> str:
    """One figure of the summary."""
    if name not in models:
        return "–"
    value = summarise(models[name])["horizons"]["all"]["mae"]
    return f"**{spread(value)}**" if is_lowest_or_tied(models, name) else spread(value)


def is_lowest_or_tied(models: Models, name: str) -> bool:
    """Whether no other entry has a clearly lower MAE."""
    best = min(models, key=lambda one: mean_mae(models[one]))
    return name == best or not compare(models[name], models[best]).is_clear


def verdicts(results: dict[str, Models]) -> list[str]:
    """The bars that ask for all sets together."""
    lines = ["## Bars over all sets", ""]
    have = {name: models for name, models in results.items() if HOUSE in models}
    if not have:
        return []
    lost = [f"{name}: {rival}" for name, models in have.items() for rival in HOUSE_CONTROLS
            if rival in models and mean_mae(models[HOUSE]) >= mean_mae(models[rival])]
    absent = [f"{name}: {rival} was not run" for name, models in have.items() for rival in HOUSE_CONTROLS
              if rival not in models]
    lines.append(f"* {HOUSE} (inductive) below the profile MLP and the four controls on every set: "
                 + verdict(lost + absent) + ".")
    beaten = []
    for name, models in have.items():
        mode, rivals = better_mode(models), ranked(models)
        assert mode is not None
        if not is_lowest_or_tied(rivals, mode):
            best = min(rivals, key=lambda one: mean_mae(rivals[one]))
            beaten.append(f"{name}: {best} is lower than {mode}")
    lines.append(f"* {HOUSE} in its better mode (by validation) lowest or tied with the lowest on every set: "
                 + verdict(beaten) + ".")
    for name in ablations(results):
        if "edges" in name:
            worse = [one for one, models in have.items() if name in models
                     and (base := models.get(models[name][0]["entry"]["trained_as"] or HOUSE)) is not None
                     and (found := compare(models[name], base)).is_clear and found.difference > 0]
            lines.append(f"* Removing edges ({name}) hurts on at least two sets: "
                         f"**{'yes' if len(worse) >= 2 else 'no'}** ({join(worse) or 'on none'}).")
    return [*lines, ""]


def parts(results: dict[str, Models]) -> list[str]:
    """What each part is worth: the profile MLP and every ablation beside the house model."""
    names = [PROFILE, *ablations(results)]
    have = {name: models for name, models in results.items() if HOUSE in models}
    if len(names) == 1 or not have:
        return []
    lines = ["## What the parts are worth", "",
             f"MAE over all steps beside {HOUSE} as it comes, in percent (positive: worse than {HOUSE}), and p. The "
             "first row is the whole gain over the profile MLP.", "",
             "| | what differs | " + " | ".join(have) + " |", "|" + "---|" * (2 + len(have))]
    for name in names:
        sample = next((models[name][0] for models in have.values() if name in models), None)
        if sample is None:
            continue
        cells = []
        for models in have.values():
            found = compare(models[name], models[HOUSE]) if name in models else None
            cells.append("–" if found is None else f"{100 * found.share:+.1f} %, p {probability(found.p_value)}")
        lines.append(f"| {name} | {what_differs(sample)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def ablations(results: dict[str, Models]) -> list[str]:
    """Names of the ablations, in the order of the entries."""
    return list(dict.fromkeys(name for models in results.values() for name, records in models.items()
                              if records[0]["entry"]["role"] == "ablation"))


def what_differs(record: Record) -> str:
    """The settings of an entry, in words."""
    entry = record["entry"]
    text = [f"`{key}={value}`" for key, value in entry["settings"].items()]
    text += [f"`{key}={value}` in scoring only" for key, value in entry["scored_with"].items()]
    return join(text) or entry["model"]


# ---------------------------------------------------------------- one set
def section(name: str, models: Models) -> list[str]:
    """The table of one set and its bars."""
    sample = min((records[0] for records in models.values()), key=lambda record: not is_protocol(record))
    unit = f"counts per {sample['interval_s'] // 60} min" if sample["unit"] in ("1", "count") else sample["unit"]
    lines = [f"## {name}", "",
             f"{', '.join(sample['scored_channels'])} in {unit}; {sample['split']['windows']} test windows from "
             f"{sample['split']['from']} to {sample['split']['to']}; one step is {sample['interval_s'] // 60} minutes; "
             f"data sha256 `{sample['data_sha256'][:16]}`.", "",
             "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(row(one, records, models))} |" for one, records in models.items()]
    return [*lines, "", *bars(name, models), *notes(models), ""]


def row(name: str, records: list[Record], models: Models) -> list[str]:
    """The cells of one entry."""
    first, training = records[0], [record["training"] for record in records]
    mean = summarise(records)["horizons"]
    share = first.get("control_fallback_share", {}).get(name, 0.0)
    label = {"control": f"*{name.replace('_', ' ')}*", "model": f"**{name}**"}.get(first["entry"]["role"], name)
    against = "–"
    if name != HOUSE and HOUSE in models and is_protocol(first):
        found = compare(records, models[HOUSE])
        against = f"{found.difference:+.3f}, p {probability(found.p_value)}"
    cost = ["–"] * 3
    if training[0]["steps"] is not None:
        before = f" after {training[0]['first_steps']:,}" if training[0]["first_steps"] else ""
        cost = [f"{training[0]['steps']:,}{before}",
                *(f"{np.mean([one[key] for one in training]):.0f}" for key in ("seconds", "cpu_s"))]
    peak = max(max(record["peak_memory_mb"], record["training"]["peak_mb"] or 0) for record in records)
    return [label + (f" ({100 * share:.0f} % fell back)" if share > 0.01 else ""),
            f"{first['history']} ({span(first['history_minutes'])})", first["reads"],
            "any" if first["inductive"] else "fixed",
            *(spread(mean[step]["mae"]) for step in ("3", "6", "12", "all")), against,
            spread(mean["all"]["rmse"]), spread(mean["all"]["mape"], 2), f"{first['parameters']:,}",
            str(len(records)), *cost, f"{peak:.0f}"]


def notes(models: Models) -> list[str]:
    """What must be known of rows that were scored on other windows."""
    lines = []
    for name, records in models.items():
        if not is_protocol(records[0]):
            controls = records[0]["controls"]
            lines.append(f"* {name} reads {span(records[0]['history_minutes'])}, so its part of the test rows holds "
                         f"{records[0]['split']['windows']} windows. It is not ranked. On these windows: "
                         + ", ".join(f"{one.replace('_', ' ')} {scores['all']['mae']:.3f}"
                                     for one, scores in controls.items()) + ".")
    return lines


def bars(name: str, models: Models) -> list[str]:
    """What is asked of one set, and what was measured."""
    return [*lineage_bars(name, models), *house_bars(models)]


def lineage_bars(name: str, models: Models) -> list[str]:
    """STID, PatchSTG and the profile MLP against controls, peers and one another."""
    lines = []
    mean = {one: summarise(records)["horizons"] for one, records in models.items() if is_protocol(records[0])}
    if "stid" in mean:
        lost = [f"{one.replace('_', ' ')} at step {step}" for step in ("3", "6", "12") for one in CONTROLS
                if one in mean and mean["stid"][step]["mae"]["mean"] >= mean[one][step]["mae"]["mean"]]
        lines.append("* STID below all four controls at steps 3, 6 and 12: "
                     + ("**yes**." if not lost else f"**no**, not below {', '.join(lost)}."))
        peer, mine = ORIENTATION[name][0], mean["stid"]["all"]["mae"]["mean"]
        lines.append(f"* STID against a peer's STID code after 1.5 minutes ({peer}): {mine:.3f}, "
                     f"{100 * (mine / peer - 1):+.1f} % (bar: at most +3 %).")
    if "stid" in mean and "patchstg" in mean:
        ratio = mean["patchstg"]["all"]["mae"]["mean"] / mean["stid"]["all"]["mae"]["mean"]
        lines.append(f"* PatchSTG against STID: {100 * (ratio - 1):+.1f} % (bar: at most +5 %).")
    if PROFILE in mean:
        peer, mine = ORIENTATION[name][1], mean[PROFILE]["all"]["mae"]["mean"]
        lines.append(f"* Profile MLP against the design note's prototype ({peer}): {mine:.3f}, "
                     f"{100 * (mine / peer - 1):+.1f} %.")
    return lines


def house_bars(models: Models) -> list[str]:
    """The house model against its controls, and against the best of the others."""
    if HOUSE not in models:
        return []
    lines = []
    four = [one for one in CONTROLS if one in models]
    rivals = [(min(four, key=lambda one: mean_mae(models[one])), "the best of the four controls")] if four else []
    rivals += [(PROFILE, "the control of our own")] if PROFILE in models else []
    for rival, what in rivals:
        found = compare(models[HOUSE], models[rival])
        lines.append(f"* {HOUSE} below {what} ({rival}): **{'yes' if found.difference < 0 else 'no'}**, "
                     f"{found.words()}.")
    mode = better_mode(models)
    assert mode is not None
    others = {one: records for one, records in ranked(models).items() if one not in (HOUSE, HOUSE_FIXED)}
    if others:
        best = min(others, key=lambda one: mean_mae(others[one]))
        found = compare(models[mode], others[best])
        how = "tied with" if not found.is_clear else "below" if found.difference < 0 else "above"
        lines.append(f"* {HOUSE} in its better mode by validation ({mode}) is **{how}** the best of the others "
                     f"({best}): {found.words()}.")
    return lines


# ---------------------------------------------------------------- words
def spread(value: dict[str, float | None], digits: int = 3) -> str:
    """Mean, and the spread where there are several seeds."""
    return f"{value['mean']:.{digits}f}" + (f" ± {value['spread']:.{digits}f}" if value["spread"] is not None else "")


def probability(p: float | None) -> str:
    """``0.04``, ``< 0.001``; a dash where there is none."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.095 else f"{p:.2f}"


def span(minutes: float) -> str:
    """``1 h``, or days from one on."""
    return f"{minutes / 1440:g} d" if minutes >= 1440 else f"{minutes / 60:g} h"


def verdict(lost: list[str]) -> str:
    """Yes, or no with what was lost."""
    return "**yes**" if not lost else f"**no** ({'; '.join(lost)})"


def join(words: Iterable[object]) -> str:
    """Words with commas."""
    return ", ".join(map(str, words))
