//! The ConfigMap `config-autoscaler`.

use std::collections::BTreeMap;
use std::time::Duration;

use dormouse_api::autoscaling::parse_duration;

/// Every knob of the platform; a revision's annotations come first.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Percent of the target that is aimed at.
    pub target_percent: f64,
    /// The target of instances without a limit.
    pub target_default: f64,
    /// The target when requests per second are measured.
    pub rps_target_default: f64,
    /// Burst that must be absorbed.
    pub target_burst_capacity: f64,
    /// The stable window.
    pub stable_window: Duration,
    /// The panic window in percent of the stable one.
    pub panic_window_percent: f64,
    /// When panic starts.
    pub panic_threshold_percent: f64,
    /// Fastest growth, as a factor.
    pub max_scale_up_rate: f64,
    /// Fastest shrinking, as a factor.
    pub max_scale_down_rate: f64,
    /// Whether zero instances are allowed.
    pub scale_to_zero: bool,
    /// Shortest inactivity before zero.
    pub grace: Duration,
    /// Longer inactivity before zero.
    pub retention: Duration,
    /// Instances that a new revision must reach.
    pub initial_scale: u32,
    /// Fewest instances.
    pub min_scale: u32,
    /// Most instances; 0 = unlimited.
    pub max_scale: u32,
    /// How long demand must stay low.
    pub scale_down_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            target_percent: 70.0,
            target_default: 100.0,
            rps_target_default: 200.0,
            target_burst_capacity: 211.0,
            stable_window: Duration::from_secs(60),
            panic_window_percent: 10.0,
            panic_threshold_percent: 200.0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            scale_to_zero: true,
            grace: Duration::from_secs(30),
            retention: Duration::ZERO,
            initial_scale: 1,
            min_scale: 0,
            max_scale: 0,
            scale_down_delay: Duration::ZERO,
        }
    }
}

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config-autoscaler: {key}: invalid value {value:?}")]
pub struct InvalidConfig {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
}

impl Config {
    /// Reads the ConfigMap's data; missing keys have defaults.
    ///
    /// # Errors
    /// Names the first key whose value cannot be used.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, InvalidConfig> {
        let default = Self::default();
        let read = Reader(data);
        let percent = read.number("container-concurrency-target-percentage", default.target_percent, 0.0)?;
        Ok(Self {
            target_percent: if percent <= 1.0 { percent * 100.0 } else { percent },
            target_default: read.number(
                "container-concurrency-target-default",
                default.target_default,
                0.01,
            )?,
            rps_target_default: read.number(
                "requests-per-second-target-default",
                default.rps_target_default,
                0.01,
            )?,
            target_burst_capacity: read.number(
                "target-burst-capacity",
                default.target_burst_capacity,
                -1.0,
            )?,
            stable_window: read.duration("stable-window", default.stable_window, Duration::from_secs(6))?,
            panic_window_percent: read.number(
                "panic-window-percentage",
                default.panic_window_percent,
                1.0,
            )?,
            panic_threshold_percent: read.number(
                "panic-threshold-percentage",
                default.panic_threshold_percent,
                110.0,
            )?,
            max_scale_up_rate: read.number("max-scale-up-rate", default.max_scale_up_rate, 1.0)?,
            max_scale_down_rate: read.number("max-scale-down-rate", default.max_scale_down_rate, 1.0)?,
            scale_to_zero: read.flag("enable-scale-to-zero", default.scale_to_zero)?,
            grace: read.duration("scale-to-zero-grace-period", default.grace, Duration::ZERO)?,
            retention: read.duration(
                "scale-to-zero-pod-retention-period",
                default.retention,
                Duration::ZERO,
            )?,
            initial_scale: read.count("initial-scale", default.initial_scale)?,
            min_scale: read.count("min-scale", default.min_scale)?,
            max_scale: read.count("max-scale", default.max_scale)?,
            scale_down_delay: read.duration("scale-down-delay", default.scale_down_delay, Duration::ZERO)?,
        })
    }
}

struct Reader<'a>(&'a BTreeMap<String, String>);

impl Reader<'_> {
    fn get<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, InvalidConfig> {
        match self.0.get(key) {
            None => Ok(default),
            Some(text) => parse(text.trim()).ok_or_else(|| InvalidConfig { key, value: text.clone() }),
        }
    }

    fn number(&self, key: &'static str, default: f64, least: f64) -> Result<f64, InvalidConfig> {
        self.get(key, default, |text| {
            text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= least)
        })
    }

    fn count(&self, key: &'static str, default: u32) -> Result<u32, InvalidConfig> {
        self.get(key, default, |text| text.parse().ok())
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool, InvalidConfig> {
        self.get(key, default, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Some(true),
            "false" | "f" | "0" => Some(false),
            _ => None,
        })
    }

    fn duration(
        &self,
        key: &'static str,
        default: Duration,
        least: Duration,
    ) -> Result<Duration, InvalidConfig> {
        self.get(key, default, |text| {
            let nanoseconds = u64::try_from(parse_duration(text)?).ok()?;
            Some(Duration::from_nanos(nanoseconds)).filter(|value| *value >= least)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nothing_means_the_defaults_and_examples_are_ignored() {
        assert_eq!(Config::parse(&data(&[("_example", "stable-window: nonsense")])), Ok(Config::default()));
    }

    #[test]
    fn values_are_read() {
        let config = Config::parse(&data(&[
            ("stable-window", "10s"),
            ("enable-scale-to-zero", "false"),
            ("container-concurrency-target-percentage", "0.5"),
            ("max-scale", "7"),
        ]))
        .unwrap();
        assert_eq!(config.stable_window, Duration::from_secs(10));
        assert!(!config.scale_to_zero);
        assert_eq!(config.target_percent, 50.0);
        assert_eq!(config.max_scale, 7);
    }

    #[test]
    fn an_error_names_the_key() {
        let error = Config::parse(&data(&[("stable-window", "1s")])).unwrap_err();
        assert_eq!(error.to_string(), "config-autoscaler: stable-window: invalid value \"1s\"");
    }
}
