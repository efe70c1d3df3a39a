"""The estimators, by scikit-learn's own checks and beside its solutions."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import ElasticNet, LassoCV, LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import torchreg as tr

ESTIMATORS = [
    tr.estimators.ElasticNetRegressor(),
    tr.estimators.LogisticClassifier(),
    tr.estimators.ElasticNetRegressorCV(points=4, cv=3),
    pytest.param(tr.estimators.LogisticClassifierCV(points=3, cv=3), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_it_passes_scikit_learns_checks_without_exemption(estimator: object) -> None:
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert len(results) > 30
    assert [r for r in results if r["status"] not in ("passed", "skipped")] == []
    # The array API is checked only where SCIPY_ARRAY_API is set; these estimators take numpy.
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {
        "check_array_api_input"
    }


def test_the_regressor_agrees_with_scikit_learn() -> None:
    X, y = load_diabetes(return_X_y=True)
    theirs = ElasticNet(0.02, l1_ratio=0.5, tol=1e-14, max_iter=1_000_000).fit(X, y)
    ours = tr.estimators.ElasticNetRegressor(0.02, l1_ratio=0.5, tol=1e-10).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-6)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))
    assert ours.converged_


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_the_classifier_agrees_with_scikit_learn(load: object) -> None:
    X, y = load(return_X_y=True)  # type: ignore[operator]
    X = StandardScaler().fit_transform(X)
    theirs = LogisticRegression(
        C=1 / (len(X) * 0.02), l1_ratio=1.0, solver="saga", tol=1e-12, max_iter=1_000_000
    ).fit(X, y)
    ours = tr.estimators.LogisticClassifier(0.02, tol=1e-10).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    assert (ours.predict(X) == theirs.predict(X)).all()


def test_cross_validation_agrees_with_lasso_cv() -> None:
    X, y = load_diabetes(return_X_y=True)
    folds = KFold(4, shuffle=True, random_state=0)
    theirs = LassoCV(alphas=20, eps=1e-2, cv=folds, tol=1e-12, max_iter=1_000_000).fit(X, y)
    ours = tr.estimators.ElasticNetRegressorCV(points=20, cv=folds, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(ours.strengths_, theirs.alphas_)
    np.testing.assert_allclose(2 * ours.losses_.T, theirs.mse_path_, rtol=1e-6)
    assert ours.strength_ == pytest.approx(theirs.alpha_)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    careful = tr.estimators.ElasticNetRegressorCV(points=20, cv=folds, choice="one_standard_error")
    assert careful.fit(X, y).strength_ >= ours.strength_


def test_the_support_has_the_names_of_the_data_frame() -> None:
    frame = load_diabetes(as_frame=True)
    model = tr.estimators.ElasticNetRegressor(1.0).fit(frame.data, frame.target)
    kept = frame.data.columns[model.coef_ != 0].tolist()
    assert model.support().used == kept
    assert 0 < len(kept) < 10
    pipeline = make_pipeline(StandardScaler(), tr.estimators.LogisticClassifier(0.1))
    wine = load_wine(as_frame=True)
    assert (
        pipeline.set_output(transform="pandas")
        .fit(wine.data, wine.target)
        .score(wine.data, wine.target)
        > 0.9
    )
    assert set(pipeline[-1].support().used) <= set(wine.data.columns)


def test_it_says_what_is_wrong() -> None:
    X = np.eye(6)
    with pytest.raises(ValueError, match="one class"):
        tr.estimators.LogisticClassifier().fit(X, np.ones(6, dtype=int))
    with pytest.raises(ValueError, match="l1_ratio"):
        tr.estimators.ElasticNetRegressor(l1_ratio=2.0).fit(X, np.arange(6.0))
    with pytest.raises(ValueError, match="choice must be"):
        tr.estimators.ElasticNetRegressorCV(choice="better", cv=2).fit(X, np.arange(6.0))
    x = np.random.default_rng(0).normal(size=(50, 5))
    y = np.where(x[:, 0] > 0, "a", "b")
    with pytest.warns(tr.NotConverged):
        tr.estimators.LogisticClassifier(1e-4, max_iter=1).fit(x, y)
    empty = pd.DataFrame({"a": np.zeros(6), "b": np.arange(6.0)})
    model = tr.estimators.ElasticNetRegressor(0.1).fit(empty, np.arange(6.0))
    assert model.support().used == ["b"]


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (tr.estimators.ElasticNetRegressor(-1.0), "^strength must be"),
        (tr.estimators.LogisticClassifier(float("nan")), "^strength must be"),
        (tr.estimators.LogisticClassifier("a"), "^strength must be"),  # type: ignore[arg-type]
        (tr.estimators.ElasticNetRegressor(l1_ratio=-1.0), "^l1_ratio must be"),
        (tr.estimators.ElasticNetRegressorCV(l1_ratio=None), "^l1_ratio must be"),  # type: ignore[arg-type]
        (tr.estimators.ElasticNetRegressor(tol="a"), "^tol must be"),  # type: ignore[arg-type]
        (tr.estimators.ElasticNetRegressor(max_iter=1.5), "^max_iter must be"),  # type: ignore[arg-type]
        (tr.estimators.ElasticNetRegressorCV(strengths=0.1), "^strengths must be"),  # type: ignore[arg-type]
    ],
)
def test_errors_call_parameters_by_the_names_that_the_user_gave(
    estimator: tr.estimators.ElasticNetRegressor, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        estimator.fit(np.eye(8), np.arange(8) % 2)


def test_arrays_of_another_byte_order_and_numpy_integers_are_taken() -> None:
    X, y = load_diabetes(return_X_y=True)
    model = tr.estimators.ElasticNetRegressor(0.5).fit(X, y)
    other = tr.estimators.ElasticNetRegressor(0.5).fit(X.astype(">f8"), y.astype(">f8"))
    np.testing.assert_array_equal(model.coef_, other.coef_)
    points: int = np.int64(4)  # type: ignore[assignment]  # as GridSearchCV has it from an arange
    found = tr.estimators.ElasticNetRegressorCV(points=points, cv=2).fit(X, y)
    assert len(found.strengths_) == 4


def test_one_class_is_named_as_it_was_given() -> None:
    with pytest.raises(ValueError, match=r"one class: \['a'\]"):
        tr.estimators.LogisticClassifier().fit(np.eye(6), ["a"] * 6)


def test_a_regressor_refuses_labels() -> None:
    with pytest.raises(ValueError, match="must be numbers"):
        tr.estimators.ElasticNetRegressor().fit(np.eye(6), np.array(list("ababab")))
