//! Medians.

use std::fmt;

use serde_json::{Value, json};

/// What was measured several times.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    sorted: Vec<f64>,
}

impl Sample {
    /// A sample of these values, of which there is one at least.
    pub fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a sample has values");
        values.sort_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// The value in the middle, or between the two in the middle.
    pub fn median(&self) -> f64 {
        let upper = self.sorted.len() / 2;
        let lower = (self.sorted.len() - 1) / 2;
        f64::midpoint(self.sorted[lower], self.sorted[upper])
    }

    /// The least and the greatest.
    pub fn range(&self) -> (f64, f64) {
        (self.sorted[0], self.sorted[self.sorted.len() - 1])
    }

    pub fn to_json(&self) -> Value {
        let (min, max) = self.range();
        json!({ "median": self.median(), "min": min, "max": max })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = self.range();
        let digits = f.precision().unwrap_or(3);
        write!(f, "{:.digits$}", self.median())?;
        // Of a single value there is no more to say.
        if self.sorted.len() > 1 { write!(f, " ({min:.digits$} to {max:.digits$})") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let sample = Sample::new(vec![3.0, 1.0, 2.0]);
        assert_eq!((sample.median(), sample.range()), (2.0, (1.0, 3.0)));
        assert_eq!(Sample::new(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(format!("{:.1}", Sample::new(vec![0.5, 1.5, 1.0])), "1.0 (0.5 to 1.5)");
        assert_eq!(format!("{:.1}", Sample::new(vec![0.5])), "0.5");
    }
}
