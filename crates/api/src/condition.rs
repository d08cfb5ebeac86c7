//! Living conditions: one happy condition computed over its dependents.
//!
//! A dependent that turns False or Unknown takes the happy condition with it; the happy condition is True only when
//! all dependents are. Anything else is informational. Time is an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

/// One condition of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is judged, for example `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Empty (an error when not True) or `Info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// When anything else of this condition last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// A word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Condition {
    /// Whether the status is `True`.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
    /// Whether the status is `False`.
    pub fn is_false(&self) -> bool {
        self.status == "False"
    }
    /// Whether the status is neither True nor False.
    pub fn is_unknown(&self) -> bool {
        !self.is_true() && !self.is_false()
    }
    /// The reason, or nothing.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }
    /// The message, or nothing.
    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }
}

/// The condition of type `type_`, if it is there.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Which conditions a kind has.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// The condition that sums up.
    pub happy: &'static str,
    /// The conditions that it sums up.
    pub dependents: &'static [&'static str],
}

impl Set {
    /// A writer over `conditions` that stamps changes with `now`.
    pub fn manage<'a>(&'static self, conditions: &'a mut Vec<Condition>, now: Timestamp) -> Manager<'a> {
        Manager { set: self, conditions, now }
    }
}

/// Writes conditions and keeps the happy one true to its dependents.
#[derive(Debug)]
pub struct Manager<'a> {
    set: &'static Set,
    conditions: &'a mut Vec<Condition>,
    now: Timestamp,
}

// === impl Manager ===

impl Manager<'_> {
    /// The condition of type `type_`, if it is there.
    pub fn get(&self, type_: &str) -> Option<&Condition> {
        find(self.conditions, type_)
    }

    /// Adds what is missing: Unknown, or True for dependents of a happy condition that is already True.
    pub fn initialize(&mut self) {
        let happy = self.get(self.set.happy).is_some_and(Condition::is_true);
        if self.get(self.set.happy).is_none() {
            self.set(self.set.happy, "Unknown", "", "");
        }
        for dependent in self.set.dependents {
            if self.get(dependent).is_none() {
                self.set(dependent, if happy { "True" } else { "Unknown" }, "", "");
            }
        }
    }

    /// Marks `type_` True and recomputes the happy condition.
    pub fn mark_true(&mut self, type_: &str) {
        self.mark_true_with(type_, "", "");
    }

    /// Like [`Manager::mark_true`], with a reason and a message.
    pub fn mark_true_with(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, "True", reason, message);
        self.recompute(type_);
    }

    /// Marks `type_` Unknown; the happy condition follows unless another dependent is False.
    pub fn mark_unknown(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, "Unknown", reason, message);
        let failed = self
            .set
            .dependents
            .iter()
            .filter_map(|dependent| self.get(dependent))
            .filter(|condition| condition.is_false())
            .max_by_key(|condition| condition.last_transition_time.as_ref().map(|time| time.0))
            .cloned();
        if let Some(failed) = failed {
            if !self.get(self.set.happy).is_some_and(Condition::is_false) {
                self.set(self.set.happy, "False", failed.reason(), failed.message());
            }
        } else if self.set.dependents.contains(&type_) {
            self.set(self.set.happy, "Unknown", reason, message);
        }
    }

    /// Marks `type_` False; the happy condition follows at once when `type_` is one of its dependents.
    pub fn mark_false(&mut self, type_: &str, reason: &str, message: &str) {
        self.set(type_, "False", reason, message);
        if self.set.dependents.contains(&type_) {
            self.set(self.set.happy, "False", reason, message);
        }
    }

    /// Marks `type_` with a status given as text: what copying a child's condition needs.
    pub fn mark(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        match status {
            "True" => self.mark_true(type_),
            "False" => self.mark_false(type_, reason, message),
            _ => self.mark_unknown(type_, reason, message),
        }
    }

    fn recompute(&mut self, cause: &str) {
        let worst = |wanted: fn(&Condition) -> bool| {
            self.set
                .dependents
                .iter()
                .filter_map(|dependent| self.get(dependent))
                .filter(|condition| wanted(condition))
                .max_by_key(|condition| condition.last_transition_time.as_ref().map(|time| time.0))
                .cloned()
        };
        let unhappy = worst(Condition::is_false).or_else(|| worst(Condition::is_unknown));
        let missing = self.set.dependents.iter().any(|dependent| self.get(dependent).is_none());
        match unhappy {
            Some(condition) => {
                self.set(self.set.happy, &condition.status, condition.reason(), condition.message());
            }
            None if missing => self.set(self.set.happy, "Unknown", "", ""),
            None if cause != self.set.happy => self.set(self.set.happy, "True", "", ""),
            None => {}
        }
    }

    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        let error = type_ == self.set.happy || self.set.dependents.contains(&type_);
        let mut condition = Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            severity: (!error).then(|| "Info".to_owned()),
            last_transition_time: None,
            reason: text(reason),
            message: text(message),
        };
        match self.conditions.iter_mut().find(|existing| existing.type_ == type_) {
            Some(existing) => {
                condition.last_transition_time = existing.last_transition_time.clone();
                if *existing != condition || condition.last_transition_time.is_none() {
                    condition.last_transition_time = Some(Time(self.now));
                    *existing = condition;
                }
            }
            None => {
                condition.last_transition_time = Some(Time(self.now));
                self.conditions.push(condition);
                self.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SET: Set = Set { happy: "Ready", dependents: &["A", "B"] };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ready_is_true_only_when_all_dependents_are() {
        let mut conditions = Vec::new();
        let mut manager = SET.manage(&mut conditions, at(1));
        manager.initialize();
        manager.mark_true("A");
        assert!(manager.get("Ready").unwrap().is_unknown());
        manager.mark_true("B");
        assert!(manager.get("Ready").unwrap().is_true());
        manager.mark_false("Active", "NoTraffic", "idle");
        assert!(manager.get("Ready").unwrap().is_true());
        assert_eq!(manager.get("Active").unwrap().severity.as_deref(), Some("Info"));
        let order: Vec<&str> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(order, ["A", "Active", "B", "Ready"]);
    }

    #[test]
    fn false_beats_unknown_and_carries_its_reason() {
        let mut conditions = Vec::new();
        let mut manager = SET.manage(&mut conditions, at(1));
        manager.initialize();
        manager.mark_false("A", "Broken", "it broke");
        manager.mark_unknown("B", "Waiting", "wait");
        let ready = manager.get("Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason()), ("False", "Broken"));
        manager.mark_true("A");
        let ready = manager.get("Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason()), ("Unknown", "Waiting"));
    }

    #[test]
    fn transition_time_moves_only_with_a_change() {
        let mut conditions = Vec::new();
        SET.manage(&mut conditions, at(1)).mark_true("A");
        SET.manage(&mut conditions, at(9)).mark_true("A");
        assert_eq!(find(&conditions, "A").unwrap().last_transition_time, Some(Time(at(1))));
        SET.manage(&mut conditions, at(9)).mark_false("A", "x", "");
        assert_eq!(find(&conditions, "A").unwrap().last_transition_time, Some(Time(at(9))));
    }
}
