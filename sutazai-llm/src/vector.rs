//! What is done to every vector before it leaves this crate.

/// The vector at unit length; one of nothing but zeros becomes the first axis. `None` if it holds what is no number: the weights are damaged.
#[allow(clippy::cast_possible_truncation, reason = "back to the precision it came from")]
pub(crate) fn normalise(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    // In f64: the squares of many small numbers lose too much in f32.
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() {
        return None;
    }
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    } else if let Some(first) = vector.first_mut() {
        *first = 1.0;
    }
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_gets_unit_length() {
        assert_eq!(normalise(vec![3.0, 4.0]).unwrap(), [0.6, 0.8]);
        assert_eq!(normalise(vec![0.0, 0.0]).unwrap(), [1.0, 0.0]);
        assert_eq!(normalise(vec![f32::NAN, 0.0]), None);
    }
}
