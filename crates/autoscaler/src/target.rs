//! What one instance should carry.

use dormouse_api::autoscaling::{Knobs, Metric};

use crate::config::Config;

/// What an instance should carry and what it could.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Aimed at.
    pub value: f64,
    /// What an instance can take: basis of spare capacity.
    pub total: f64,
}

/// The target of a revision.
pub fn target(knobs: &Knobs, container_concurrency: u32, config: &Config) -> Target {
    let limit = (container_concurrency > 0).then_some(f64::from(container_concurrency));
    let (mut total, mut utilization) = match knobs.metric {
        Metric::Concurrency => (limit.unwrap_or(config.target_default), config.target_percent / 100.0),
        Metric::Rps => (config.rps_target_default, 0.7),
    };
    if let Some(wanted) = knobs.target {
        total = match (knobs.metric, limit) {
            (Metric::Concurrency, Some(limit)) => wanted.min(limit),
            _ => wanted,
        };
    }
    if let Some(percent) = knobs.target_utilization_percent {
        utilization = percent / 100.0;
    }
    Target { value: (total * utilization).max(0.01), total }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_follow_limit_default_and_annotations() {
        let config = Config::default();
        let knobs = Knobs::default();
        let value = |knobs: &Knobs, limit| {
            let target = target(knobs, limit, &config);
            ((target.value * 1000.0).round() / 1000.0, target.total)
        };
        assert_eq!(value(&knobs, 0), (70.0, 100.0));
        assert_eq!(value(&knobs, 1), (0.7, 1.0));
        assert_eq!(value(&Knobs { target: Some(10.0), ..knobs.clone() }, 0), (7.0, 10.0));
        assert_eq!(value(&Knobs { target: Some(10.0), ..knobs.clone() }, 5), (3.5, 5.0));
        assert_eq!(value(&Knobs { metric: Metric::Rps, ..knobs.clone() }, 5), (140.0, 200.0));
        let full = Knobs { target_utilization_percent: Some(100.0), ..knobs };
        assert_eq!(value(&full, 1), (1.0, 1.0));
    }
}
