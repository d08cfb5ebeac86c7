//! The `autoscaling.knative.dev/*` annotations: names, aliases, ranges, and one typed view of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fielderror::FieldError;
use crate::vocabulary::{AUTOSCALING_PREFIX, HPA_CLASS, KPA_CLASS};

/// An annotation with its accepted spellings, the preferred one first.
#[derive(Clone, Copy, Debug)]
pub struct Key(&'static [&'static str]);

impl Key {
    /// The preferred spelling.
    pub const fn name(&self) -> &'static str {
        match self.0 {
            [first, ..] => first,
            [] => "",
        }
    }

    /// The spelling found and its value; the first spelling wins.
    pub fn get<'a>(&self, annotations: &'a BTreeMap<String, String>) -> Option<(&'static str, &'a str)> {
        self.0.iter().find_map(|name| annotations.get(*name).map(|value| (*name, value.as_str())))
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $constant:ident = $($name:literal),+;)*) => {
        /// Every scaling annotation.
        pub mod keys {
            use super::Key;
            $($(#[$doc])* pub const $constant: Key = Key(&[$(concat!("autoscaling.knative.dev/", $name)),+]);)*
        }
    };
}

keys! {
    /// Which autoscaler acts.
    CLASS = "class";
    /// Fewest instances.
    MIN_SCALE = "min-scale", "minScale";
    /// Most instances.
    MAX_SCALE = "max-scale", "maxScale";
    /// Instances that a new Revision must reach.
    INITIAL_SCALE = "initial-scale", "initialScale";
    /// Fewest instances while there is any demand.
    ACTIVATION_SCALE = "activation-scale";
    /// How long demand must stay low.
    SCALE_DOWN_DELAY = "scale-down-delay", "scaleDownDelay";
    /// How long the last instance stays.
    RETENTION = "scale-to-zero-pod-retention-period", "scaleToZeroPodRetentionPeriod";
    /// What is measured.
    METRIC = "metric";
    /// The wanted value per instance.
    TARGET = "target";
    /// The part of the target that is aimed at.
    TARGET_UTILIZATION = "target-utilization-percentage", "targetUtilizationPercentage";
    /// The burst that must be absorbed without queueing.
    TARGET_BURST_CAPACITY = "target-burst-capacity", "targetBurstCapacity";
    /// The stable window.
    WINDOW = "window";
    /// The panic window as a part of the stable window.
    PANIC_WINDOW = "panic-window-percentage", "panicWindowPercentage";
    /// When panic starts.
    PANIC_THRESHOLD = "panic-threshold-percentage", "panicThresholdPercentage";
    /// How the window is averaged.
    AGGREGATION = "metric-aggregation-algorithm", "metricAggregationAlgorithm";
}

/// What is measured per instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// Requests in flight.
    #[default]
    Concurrency,
    /// Requests per second.
    Rps,
}

/// How a window is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// All seconds weigh the same.
    #[default]
    Linear,
    /// Recent seconds weigh more.
    WeightedExponential,
}

/// The scaling annotations of a Revision; `None` means that the platform's configuration decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knobs {
    /// Fewest instances.
    pub min_scale: Option<u32>,
    /// Most instances; 0 is unlimited.
    pub max_scale: Option<u32>,
    /// Instances that a new Revision must reach.
    pub initial_scale: Option<u32>,
    /// Fewest instances while there is any demand.
    pub activation_scale: Option<u32>,
    /// How long demand must stay low.
    pub scale_down_delay: Option<Duration>,
    /// How long the last instance stays.
    pub retention: Option<Duration>,
    /// What is measured.
    pub metric: Metric,
    /// The wanted value per instance.
    pub target: Option<f64>,
    /// Percent of the target that is aimed at, 1 to 100.
    pub target_utilization_percent: Option<f64>,
    /// −1: every request is gated; 0: only at zero; else the burst to absorb.
    pub target_burst_capacity: Option<f64>,
    /// The stable window.
    pub window: Option<Duration>,
    /// Percent of the stable window, 1 to 100.
    pub panic_window_percent: Option<f64>,
    /// Percent of capacity at which panic starts, 110 to 1000.
    pub panic_threshold_percent: Option<f64>,
    /// How the window is averaged.
    pub aggregation: Aggregation,
}

impl Knobs {
    /// Reads annotations that admission has accepted; what does not parse counts as absent.
    pub fn read(annotations: &BTreeMap<String, String>) -> Self {
        let count = |key: Key| key.get(annotations).and_then(|(_, value)| value.parse().ok());
        let number = |key: Key| key.get(annotations).and_then(|(_, value)| value.parse::<f64>().ok());
        let duration = |key: Key| key.get(annotations).and_then(|(_, value)| positive(value));
        let text = |key: Key| key.get(annotations).map(|(_, value)| value);
        Self {
            min_scale: count(keys::MIN_SCALE),
            max_scale: count(keys::MAX_SCALE),
            initial_scale: count(keys::INITIAL_SCALE),
            activation_scale: count(keys::ACTIVATION_SCALE),
            scale_down_delay: duration(keys::SCALE_DOWN_DELAY),
            retention: duration(keys::RETENTION),
            metric: if text(keys::METRIC) == Some("rps") { Metric::Rps } else { Metric::Concurrency },
            target: number(keys::TARGET),
            target_utilization_percent: number(keys::TARGET_UTILIZATION),
            target_burst_capacity: number(keys::TARGET_BURST_CAPACITY),
            window: duration(keys::WINDOW),
            panic_window_percent: number(keys::PANIC_WINDOW),
            panic_threshold_percent: number(keys::PANIC_THRESHOLD),
            aggregation: match text(keys::AGGREGATION) {
                Some("weighted-exponential" | "weightedExponential") => Aggregation::WeightedExponential,
                _ => Aggregation::Linear,
            },
        }
    }
}

fn positive(text: &str) -> Option<Duration> {
    let nanoseconds = parse_duration(text)?;
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

/// Parses a Go duration such as `1h2m3.5s` into nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end =
            tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at_checked(unit_end)?;
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    if total > 9.2e18 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    let nanoseconds = total.round() as i64;
    Some(if negative { -nanoseconds } else { nanoseconds })
}

/// A Go rendering of a duration: `1h0m0s`, `6s`, `1.5s`.
fn show(nanoseconds: i64) -> String {
    let negative = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let (seconds, fraction) = (total / 1_000_000_000, total % 1_000_000_000);
    if seconds == 0 && fraction > 0 {
        let (unit, scale) = match fraction {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        let whole = fraction / scale;
        let rest = fraction % scale;
        let width = scale.ilog10() as usize;
        return format!("{negative}{}{unit}", decimal(whole, rest, width));
    }
    let last = decimal(seconds % 60, fraction, 9);
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{negative}{last}s"),
        (0, minutes) => format!("{negative}{minutes}m{last}s"),
        (hours, minutes) => format!("{negative}{hours}h{minutes}m{last}s"),
    }
}

fn decimal(whole: u64, fraction: u64, width: usize) -> String {
    if fraction == 0 {
        whole.to_string()
    } else {
        format!("{whole}.{}", format!("{fraction:0width$}").trim_end_matches('0'))
    }
}

/// What config-autoscaler allows beyond the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `allow-zero-initial-scale`: a new Revision need not start an instance.
    pub zero_initial_scale: bool,
}

impl Allowed {
    /// Reads config-autoscaler's `data`.
    pub fn read(data: &BTreeMap<String, String>) -> Self {
        let zero = data.get("allow-zero-initial-scale");
        Self { zero_initial_scale: zero.is_some_and(|text| text.trim().eq_ignore_ascii_case("true")) }
    }
}

/// Everything that is wrong with the scaling annotations of a template; paths are the annotation keys.
pub fn validate(annotations: &BTreeMap<String, String>, allowed: Allowed) -> FieldError {
    if !annotations.keys().any(|key| key.starts_with(AUTOSCALING_PREFIX)) {
        return FieldError::none();
    }
    class(annotations)
        .also(scales(annotations, allowed))
        .also(targets(annotations))
        .also(windows(annotations))
        .also(algorithm(annotations))
}

fn class(annotations: &BTreeMap<String, String>) -> FieldError {
    let Some((key, class)) = keys::CLASS.get(annotations) else { return FieldError::none() };
    if class == HPA_CLASS {
        return FieldError::new(
            format!("autoscaler class {class:?} is not supported by this version of Dormouse"),
            &[key],
        );
    }
    if class == KPA_CLASS {
        return FieldError::none();
    }
    if class.ends_with(".autoscaling.knative.dev") || class.ends_with("autoscaling.knative.dev") {
        return FieldError::invalid(class, key);
    }
    FieldError::new(
        format!("autoscaler class {class:?} is not supported by this version of Dormouse"),
        &[key],
    )
}

fn scales(annotations: &BTreeMap<String, String>, allowed: Allowed) -> FieldError {
    let mut errors = FieldError::none();
    let mut read = |key: Key, lower: i64| -> Option<i64> {
        let (name, text) = key.get(annotations)?;
        match text.parse::<i32>() {
            Err(_) => {
                errors.add(FieldError::invalid(text, name));
                None
            }
            Ok(value) if i64::from(value) < lower => {
                errors.add(FieldError::bounds(value, lower, i32::MAX, name));
                None
            }
            Ok(value) => Some(value.into()),
        }
    };
    let min = read(keys::MIN_SCALE, 0);
    let max = read(keys::MAX_SCALE, 0);
    let initial = read(keys::INITIAL_SCALE, 0);
    let activation = read(keys::ACTIVATION_SCALE, 2);
    let name = |key: Key| key.get(annotations).map_or(key.name(), |(name, _)| name);
    if let (Some(min), Some(max)) = (min, max)
        && max != 0
        && max < min
    {
        errors.add(FieldError::new(
            format!("max-scale={max} is less than min-scale={min}"),
            &[name(keys::MAX_SCALE), name(keys::MIN_SCALE)],
        ));
    }
    if initial == Some(0) && !allowed.zero_initial_scale {
        let key = name(keys::INITIAL_SCALE);
        errors.add(FieldError::new(format!("{key}=0 not allowed by cluster"), &[key]));
    }
    if let Some(activation) = activation {
        let key = name(keys::ACTIVATION_SCALE);
        if let Some(max) = max.filter(|max| *max != 0 && *max < activation) {
            errors.add(FieldError::new(
                format!("max-scale={max} is less than activation-scale={activation}"),
                &[name(keys::MAX_SCALE), key],
            ));
        }
        if let Some(min) = min.filter(|min| activation < *min) {
            errors.add(FieldError::new(
                format!("activation-scale={activation} is less than min-scale={min}"),
                &[key, name(keys::MIN_SCALE)],
            ));
        }
    }
    errors
}

fn targets(annotations: &BTreeMap<String, String>) -> FieldError {
    let mut errors = FieldError::none();
    if let Some((name, text)) = keys::TARGET.get(annotations) {
        match number(text) {
            None => errors.add(FieldError::invalid(text, name)),
            Some(value) if value < 0.01 => {
                errors.add(FieldError::new(format!("target {text} should be at least 0.01"), &[name]));
            }
            Some(_) => {}
        }
    }
    for (key, lower, upper) in [
        (keys::TARGET_UTILIZATION, 1.0, 100.0),
        (keys::PANIC_WINDOW, 1.0, 100.0),
        (keys::PANIC_THRESHOLD, 110.0, 1000.0),
    ] {
        if let Some((name, text)) = key.get(annotations) {
            match number(text) {
                None => errors.add(FieldError::invalid(text, name)),
                Some(value) if value < lower || value > upper => {
                    errors.add(FieldError::bounds(text, lower, upper, name));
                }
                Some(_) => {}
            }
        }
    }
    if let Some((name, text)) = keys::TARGET_BURST_CAPACITY.get(annotations) {
        match number(text) {
            None => errors.add(FieldError::invalid(text, name)),
            Some(value) if value < 0.0 && (value + 1.0).abs() > f64::EPSILON => {
                errors.add(FieldError::bounds(text, 0, "3.4028234663852886e+38", name));
            }
            Some(_) => {}
        }
    }
    errors
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

fn windows(annotations: &BTreeMap<String, String>) -> FieldError {
    const SECOND: i64 = 1_000_000_000;
    let mut errors = FieldError::none();
    for (key, lower, whole) in
        [(keys::WINDOW, 6 * SECOND, true), (keys::SCALE_DOWN_DELAY, 0, true), (keys::RETENTION, 0, false)]
    {
        let Some((name, text)) = key.get(annotations) else { continue };
        match parse_duration(text) {
            None => errors.add(FieldError::invalid(text, name)),
            Some(value) if value < lower || value > 3600 * SECOND => {
                errors.add(FieldError::bounds(show(value), show(lower), show(3600 * SECOND), name));
            }
            Some(value) if whole && value % SECOND != 0 => {
                errors.add(FieldError::new("must be specified with at most second precision", &[name]));
            }
            Some(_) => {}
        }
    }
    errors
}

fn algorithm(annotations: &BTreeMap<String, String>) -> FieldError {
    let mut errors = FieldError::none();
    if let Some((name, metric)) = keys::METRIC.get(annotations)
        && !matches!(metric, "concurrency" | "rps")
    {
        errors.add(FieldError::invalid(metric, name));
    }
    if let Some((name, value)) = keys::AGGREGATION.get(annotations)
        && !matches!(value, "linear" | "weighted-exponential" | "weightedExponential")
    {
        errors.add(FieldError::invalid(value, name));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("{AUTOSCALING_PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn an_initial_scale_of_zero_needs_the_clusters_leave() {
        let zero = annotations(&[("initial-scale", "0")]);
        let data = [("allow-zero-initial-scale".to_owned(), "true".to_owned())].into();
        assert_eq!(validate(&zero, Allowed::read(&data)).to_string(), "");
        assert!(!validate(&zero, Allowed::default()).to_string().is_empty());
    }

    #[test]
    fn ranges_are_enforced_with_upstreams_texts() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("min-scale", "-1")], "expected 0 <= -1 <= 2147483647: autoscaling.knative.dev/min-scale"),
            (&[("minScale", "x")], "invalid value: x: autoscaling.knative.dev/minScale"),
            (
                &[("min-scale", "2"), ("max-scale", "1")],
                "max-scale=1 is less than min-scale=2: autoscaling.knative.dev/max-scale, autoscaling.knative.dev/min-scale",
            ),
            (
                &[("initial-scale", "0")],
                "autoscaling.knative.dev/initial-scale=0 not allowed by cluster: autoscaling.knative.dev/initial-scale",
            ),
            (&[("window", "2s")], "expected 6s <= 2s <= 1h0m0s: autoscaling.knative.dev/window"),
            (
                &[("window", "6.5s")],
                "must be specified with at most second precision: autoscaling.knative.dev/window",
            ),
            (&[("target", "0.001")], "target 0.001 should be at least 0.01: autoscaling.knative.dev/target"),
            (
                &[("panic-threshold-percentage", "100")],
                "expected 110 <= 100 <= 1000: autoscaling.knative.dev/panic-threshold-percentage",
            ),
            (&[("metric", "cpu")], "invalid value: cpu: autoscaling.knative.dev/metric"),
            (
                &[("class", "hpa.autoscaling.knative.dev")],
                "autoscaler class \"hpa.autoscaling.knative.dev\" is not supported by this version of Dormouse: autoscaling.knative.dev/class",
            ),
            (&[("min-scale", "1"), ("target", "5"), ("window", "1m")], ""),
        ];
        for (pairs, expected) in cases {
            assert_eq!(validate(&annotations(pairs), Allowed::default()).to_string(), *expected, "{pairs:?}");
        }
    }

    #[test]
    fn knobs_read_the_preferred_spelling_first() {
        let knobs = Knobs::read(&annotations(&[("min-scale", "3"), ("minScale", "9"), ("window", "1m30s")]));
        assert_eq!(knobs.min_scale, Some(3));
        assert_eq!(knobs.window, Some(Duration::from_secs(90)));
    }

    #[test]
    fn go_durations_parse_and_print() {
        for (text, nanoseconds) in
            [("1h2m3.5s", 3_723_500_000_000), ("-1.5s", -1_500_000_000), ("0", 0), ("90ms", 90_000_000)]
        {
            assert_eq!(parse_duration(text), Some(nanoseconds), "{text}");
        }
        assert_eq!(parse_duration("5"), None);
        assert_eq!(
            (show(90_000_000), show(1_500_000_000), show(0)),
            ("90ms".into(), "1.5s".into(), "0s".into())
        );
    }
}
