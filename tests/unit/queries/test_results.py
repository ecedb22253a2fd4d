"""Results: answers of Prometheus become arrays with the times at which samples were stored."""

import numpy as np

from shf_queries.results import matrix, vector


def test_a_vector_keeps_labels_time_and_value() -> None:
    """Each element of the answer becomes one sample."""
    (sample,) = vector([{"metric": {"service": "cart"}, "value": [1700000000.25, "0.5"]}])
    assert (sample.labels, sample.time, sample.value) == ({"service": "cart"}, 1700000000.25, 0.5)


def test_values_that_are_no_numbers_are_read_as_prometheus_means_them() -> None:
    """NaN and the infinities arrive as such, not as errors and not as zero."""
    (series,) = matrix([{"metric": {}, "values": [[1, "NaN"], [2, "+Inf"], [3, "-Inf"], [4, "1e-3"]]}])
    assert np.isnan(series.values[0])
    assert series.values[1:].tolist() == [np.inf, -np.inf, 0.001]
    assert series.times.tolist() == [1, 2, 3, 4]
    assert series.times.dtype == series.values.dtype == np.float64


def test_an_empty_answer_is_an_empty_tuple() -> None:
    """No series is no evidence, and no error."""
    assert vector([]) == () == matrix([])


def test_labels_are_a_copy_of_the_answer() -> None:
    """Changing the answer afterwards does not change the sample."""
    answer = [{"metric": {"service": "cart"}, "value": [1, "1"]}]
    (sample,) = vector(answer)
    answer[0]["metric"] = {}
    assert sample.labels == {"service": "cart"}
