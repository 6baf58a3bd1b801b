//! How long things took, counted in buckets; plain values that a metric is made of.

/// Upper bounds of what takes as long as a computation, in seconds.
pub const QUICK: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Upper bounds of what takes as long as a command, a check or a person's patience, in seconds.
pub const SLOW: &[f64] =
    &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 7200.0];

/// Durations in buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    bounds: &'static [f64],
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Buckets {
    /// None yet, with these upper bounds, in ascending order, in seconds.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    /// Counts one, in seconds.
    pub fn add(&mut self, seconds: f64) {
        if let Some(index) = self.bounds.iter().position(|bound| seconds <= *bound) {
            self.counts[index] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }

    /// Counts one, in milliseconds.
    #[allow(clippy::cast_precision_loss)] // 2^52 ms are longer than anything
    pub fn add_ms(&mut self, ms: u64) {
        self.add(ms as f64 / 1000.0);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper bounds, with how many were at most as long.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds.iter().zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((*bound, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let mut buckets = Buckets::new(QUICK);
        for seconds in [0.0, 0.0001, 0.002, 7.0] {
            buckets.add(seconds);
        }
        let cumulative: Vec<u64> = buckets.cumulative().map(|(_, count)| count).collect();
        assert_eq!(cumulative, [2, 2, 2, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!((buckets.count(), buckets.sum()), (4, 7.0021));
    }
}
