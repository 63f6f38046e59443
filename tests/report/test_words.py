"""The sentence at the head of the page tells the truth, above all when the model loses."""

import math

import pytest

from stgraph.report import words


def summary(model: float | None, **controls: float | None) -> dict:
    return {"horizons": {"all": {"mae": model}},
            "controls": {name: {"all": {"mae": mae}} for name, mae in controls.items()}}


def said(*args, **kwargs) -> str:
    return words.headline(*args, **kwargs).replace(words.NBSP, " ")


def test_headline_names_the_best_control_and_the_gain():
    assert said(summary(3.52, slot_mean=4.4, last_value=5.0), "mph", 3600) == (
        "Mean absolute error 3.52 mph over one hour; 20 % lower than the best control (slot mean).")


def test_headline_is_honest_when_the_model_loses():
    text = said(summary(19.7, slot_mean=17.4, last_value=30.0), "persons", 7200)
    assert text == ("Mean absolute error 19.7 persons over 2 hours; 13 % higher than the best control "
                    "(slot mean, 17.4 persons): the model does not beat it.")


@pytest.mark.parametrize("model", [4.0, 3.9985])
def test_headline_calls_no_gain_no_gain(model):
    text = said(summary(model, last_value=4.0), "mph", 900)
    assert "lower than" not in text.replace("no lower than", "")
    assert text.endswith("the model does not beat it.")


def test_headline_without_controls_or_scores():
    assert said(summary(3.0), "mph", 3600).endswith("no control was scored beside it.")
    assert said(summary(math.nan, last_value=1.0), "mph", 3600).startswith("No forecast could be scored")
    assert said(summary(3.0, last_value=None, slot_mean=4.0), "mph", 3600).endswith("(slot mean).")
    assert "does not beat" in said(summary(3.0, last_value=0.0), "count", 3600)  # no share of zero is made up


def test_steps_lost_are_named_only_where_the_model_wins_overall():
    scores = {"horizons": {"3": {"mae": 3.0}, "12": {"mae": 4.0}, "all": {"mae": 3.5}},
              "controls": {"last_value": {"3": {"mae": 2.8}, "12": {"mae": 6.0}, "all": {"mae": 4.4}}}}
    assert words.lost_horizons(scores, 300) == "At 15 minutes (last value) ahead a control does as well or better."
    scores["controls"]["last_value"]["3"]["mae"] = 3.3
    assert words.lost_horizons(scores, 300) == ""
    scores["controls"]["last_value"]["all"]["mae"] = 3.0
    assert words.lost_horizons(scores, 300) == ""


@pytest.mark.parametrize(("seconds", "long", "short"), [
    (900, "15 minutes", "15 min"), (3600, "one hour", "1 h"), (5400, "90 minutes", "90 min"), (7200, "2 hours", "2 h"),
    (86400, "one day", "1 d"), (20, "20 seconds", "20 s")])
def test_lengths_of_time(seconds, long, short):
    assert words.duration_words(seconds) == long
    assert words.duration_short(seconds) == short


@pytest.mark.parametrize(("value", "text"), [
    (3.521, "3.52"), (17.38, "17.4"), (1234.5, "1,230"), (0.05214, "0.0521"), (0, "0"), (math.nan, "–"),
    (-2.5, "−2.50")])
def test_three_significant_digits(value, text):
    assert words.significant(value) == text


def test_columns_of_errors_share_their_decimals():
    assert [words.places_for([v]) for v in (3.5, 17.4, 120.0, 1500.0, 0.052)] == [2, 2, 1, 0, 4]
    assert words.places_for([None, math.nan]) == 2
