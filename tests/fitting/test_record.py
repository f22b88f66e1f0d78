"""plan.json and fit.json: what a fit was told, what it decided, and what is read of both."""

import pytest
from fit_plans import made, write_yard

import featherseg
from featherseg.core.errors import ConfigError, FeathersegError, RunError
from featherseg.fitting import session
from featherseg.fitting.session import FitSettings

# What a fit is told


@pytest.mark.parametrize(
    ("percentile", "max_mib", "limits"),
    [(None, None, (20.0, 95, 400.0)), (50, 300.0, (20.0, 50, 300.0))],
)
def test_a_plan_is_repeated_with_its_limits_unless_others_are_said(tmp_path, monkeypatch, percentile, max_mib, limits):
    def begin(config, *rest):
        raise RunError(repr(config.limits))

    monkeypatch.setattr(session, "begin", begin)
    plan = made(percentile=95, max_mib=400.0)
    plan.write(tmp_path)
    settings = FitSettings(percentile=percentile, max_mib=max_mib, plan=tmp_path / "plan.json")
    with pytest.raises(RunError) as begun:
        featherseg.fit("shapes", 20, out=tmp_path / "out", settings=settings)
    assert str(begun.value) == repr(limits)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"max_ms": 1e8}, r"above 0 and below 10,000,000\."),
        ({"hours": 1e9}, "above 0 and below 100,000,"),
        ({"hours": float("nan")}, "hours = nan"),
    ],
)
def test_a_limit_that_is_too_large_is_told_the_largest(words, message):
    with pytest.raises(ConfigError, match=message):
        made(**words)


def test_trainings_that_cannot_be_followed_are_refused_before_the_plan_and_when_they_go_on(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yard = write_yard(tmp_path / "yard", splits="train = 0.6\nval = 0.2\ntest = 0.2")
    made(yard).write(tmp_path)
    for loggers, message in (("bogus", "bogus"), ("mlflow", "MLFLOW_TRACKING_URI|'mlflow'")):
        settings = FitSettings(plan=tmp_path / "plan.json", loggers=(loggers,))
        with pytest.raises(FeathersegError, match=message):
            featherseg.fit(yard, 20, out=tmp_path / "out", settings=settings)
        assert not (tmp_path / "out").exists()

        # Nor is a candidate dropped for it, that has not begun
        made(yard, loggers=(loggers,)).write(tmp_path / "begun")
        with pytest.raises(FeathersegError, match=message):
            featherseg.fit(out=tmp_path / "begun", resume=True)
        assert not (tmp_path / "begun" / "trials").exists()
