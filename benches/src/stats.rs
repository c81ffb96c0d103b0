//! The little statistics that the benches need.

/// The median, of an even number the mean of the two in the middle; not a number of nothing.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => f64::NAN,
        (0, Some(upper)) => f64::midpoint(values[middle - 1], *upper),
        (_, Some(value)) => *value,
    }
}

/// The smallest value that the share `of` of all does not exceed, such as 0.99 of them; not a number of nothing.
#[must_use]
pub fn quantile(mut values: Vec<f64>, of: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (of * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::{median, quantile};

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }
    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred = || (1..=100).rev().map(f64::from).collect();
        for (of, value) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert!((quantile(hundred(), of) - value).abs() < f64::EPSILON, "{of}");
        }
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }
}
