//! Averages over the last seconds: a ring of one-second buckets.

/// A ring of one-second buckets; seconds are counted from any fixed start.
#[derive(Clone, Debug)]
pub struct Window {
    buckets: Vec<f64>,
    /// The seconds of the first and last write; `None` before the first.
    span: Option<(u64, u64)>,
}

impl Window {
    /// A window of `seconds`, at least one.
    pub fn new(seconds: u64) -> Self {
        let length = usize::try_from(seconds.max(1)).unwrap_or(usize::MAX).min(7200);
        Self { buckets: vec![0.0; length], span: None }
    }

    fn len(&self) -> u64 {
        self.buckets.len() as u64
    }

    fn slot(&mut self, second: u64) -> Option<&mut f64> {
        let index = usize::try_from(second % self.len()).ok()?;
        self.buckets.get_mut(index)
    }

    fn at(&self, second: u64) -> f64 {
        let index = usize::try_from(second % self.len()).unwrap_or(0);
        self.buckets.get(index).copied().unwrap_or(0.0)
    }

    /// Adds `value` to the bucket of `second`. What is older than the window is dropped.
    pub fn record(&mut self, second: u64, value: f64) {
        let length = self.len();
        match self.span {
            Some((_, last)) if second <= last => {
                if last - second >= length {
                    return;
                }
            }
            Some((first, last)) if second - last < length => {
                for gap in last + 1..=second {
                    if let Some(slot) = self.slot(gap) {
                        *slot = 0.0;
                    }
                }
                self.span = Some((first, second));
            }
            _ => {
                self.buckets.fill(0.0);
                self.span = Some((second, second));
            }
        }
        if let Some(slot) = self.slot(second) {
            *slot += value;
        }
    }

    /// The average in which every second weighs the same; `None` before the first write.
    pub fn linear(&self, second: u64) -> Option<f64> {
        let (first, last) = self.span?;
        let written = last - first + 1;
        let silent = second.saturating_sub(last);
        if silent >= self.len() {
            return Some(0.0);
        }
        let stale: f64 = (last + 1..=last + silent).map(|gap| self.at(gap)).sum();
        let sum: f64 = self.buckets.iter().sum::<f64>() - stale;
        Some(round(sum / written.min(self.len() - silent) as f64))
    }

    /// The average in which recent seconds weigh more; `None` before the first write.
    pub fn weighted(&self, second: u64) -> Option<f64> {
        let (_, last) = self.span?;
        let silent = second.saturating_sub(last);
        if silent >= self.len() {
            return Some(0.0);
        }
        let smoothing = smoothing(self.len());
        let mut weight = smoothing * (1.0 - smoothing).powf(silent as f64);
        let mut sum = 0.0;
        for back in 0..self.len() - silent {
            let Some(at) = last.checked_sub(back) else { break };
            sum += self.at(at) * weight;
            weight *= 1.0 - smoothing;
        }
        Some(round(sum))
    }

    /// Changes the length and keeps the newest seconds.
    pub fn resize(&mut self, seconds: u64) {
        let mut resized = Self::new(seconds);
        if resized.buckets.len() == self.buckets.len() {
            return;
        }
        if let Some((first, last)) = self.span {
            let keep = self.len().min(resized.len());
            let from = first.max((last + 1).saturating_sub(keep));
            for second in from..=last {
                resized.record(second, self.at(second));
            }
        }
        *self = resized;
    }
}

/// How much the newest second weighs in a weighted window of `length` seconds.
pub fn smoothing(length: u64) -> f64 {
    (1.0 - 0.0001f64.powf(1.0 / length.max(1) as f64)).max(0.2)
}

fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Window {
        let mut window = Window::new(6);
        for (second, value) in [10.0, 10.0, 5.0, 5.0].into_iter().enumerate() {
            window.record(second as u64, value);
        }
        window
    }

    #[test]
    fn linear_averages_are_those_of_upstream() {
        let window = golden();
        let expected = [(3, 7.5), (4, 7.5), (5, 7.5), (8, 5.0), (9, 0.0), (10, 0.0)];
        for (second, average) in expected {
            assert_eq!(window.linear(second), Some(average), "t={second}");
        }
        assert_eq!(Window::new(6).linear(3), None);
    }

    #[test]
    fn weighted_averages_are_those_of_upstream() {
        let window = golden();
        let expected = [(3, 5.210535), (4, 1.122576), (5, 0.241852), (8, 0.001821), (9, 0.0)];
        for (second, average) in expected {
            assert_eq!(window.weighted(second), Some(average), "t={second}");
        }
        for (length, value) in [(6, 0.784557), (20, 0.369043), (60, 0.2), (120, 0.2)] {
            assert_eq!(round(smoothing(length)), value, "{length}");
        }
        for (length, average) in [(6, 0.999900), (20, 0.999900), (60, 0.999998)] {
            let mut window = Window::new(length);
            (0..length).for_each(|second| window.record(second, 1.0));
            assert_eq!(window.weighted(length - 1), Some(average), "{length}");
        }
    }

    #[test]
    fn a_whole_window_of_silence_starts_afresh() {
        let mut window = golden();
        window.record(20, 4.0);
        assert_eq!(window.linear(20), Some(4.0));
        window.record(10, 100.0);
        assert_eq!(window.linear(20), Some(4.0), "older than the window");
        window.record(20, 2.0);
        assert_eq!(window.linear(20), Some(6.0), "reports of one second add up");
    }

    #[test]
    fn resizing_keeps_the_newest_seconds() {
        let mut window = golden();
        window.resize(2);
        assert_eq!(window.linear(3), Some(5.0));
        window.resize(10);
        assert_eq!(window.linear(3), Some(5.0));
    }
}
