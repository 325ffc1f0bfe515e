//! Times of something that was done many times.

use std::fmt;
use std::time::{Duration, Instant};

/// Times of something that was done many times.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Does it once more and takes its time.
    pub fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = work();
        self.add(start.elapsed());
        result
    }

    /// Adds a time that was taken otherwise.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds those of somebody else.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The median; zero where nothing was done.
    pub fn median(&self) -> Duration {
        self.summary().map_or(Duration::ZERO, |[_, median, ..]| median)
    }

    /// The shortest, the median, that of which one in a hundred is longer, and the longest; none
    /// where nothing was done.
    pub fn summary(&self) -> Option<[Duration; 4]> {
        let mut times = self.0.clone();
        times.sort_unstable();
        let late = times.len() * 99 / 100;
        Some([*times.first()?, *times.get(times.len() / 2)?, *times.get(late)?, *times.last()?])
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(summary) = self.summary() else { return f.write_str("never done") };
        let [least, median, late, most] = summary.map(|time| time.as_secs_f64() * 1e6);
        write!(
            f,
            "min {least:.1}  median {median:.1}  p99 {late:.1}  max {most:.1} µs  ({} times)",
            self.0.len()
        )
    }
}
