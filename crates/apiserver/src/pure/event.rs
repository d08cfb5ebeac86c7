//! The two forms of an Event: `v1`, which is stored, and `events.k8s.io/v1`.

use serde_json::{Map, Value};

/// Names of the same field in both forms: stored, then `events.k8s.io/v1`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// The stored form of an `events.k8s.io/v1` Event.
pub(crate) fn to_core(event: &Value) -> Value {
    rename(event, "v1", |name| NAMES.iter().find(|(_, new)| *new == name).map(|(core, _)| *core))
}

/// The `events.k8s.io/v1` form of a stored Event.
pub(crate) fn from_core(event: &Value) -> Value {
    rename(event, "events.k8s.io/v1", |name| {
        NAMES.iter().find(|(core, _)| *core == name).map(|(_, new)| *new)
    })
}

fn rename(event: &Value, api_version: &str, new_name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let mut result = Map::new();
    for (name, value) in event.as_object().into_iter().flatten() {
        let name = new_name(name).unwrap_or(name);
        result.insert(name.to_owned(), value.clone());
    }
    result.insert("apiVersion".to_owned(), Value::from(api_version));
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "x"},
            "message": "m", "reason": "R", "type": "Normal", "source": {"component": "c"}, "count": 2,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z",
            "reportingComponent": "c", "reportingInstance": "i", "eventTime": null,
        });
        let new = from_core(&core);
        assert_eq!(new["note"], "m");
        assert_eq!(new["regarding"]["name"], "x");
        assert_eq!(new["apiVersion"], "events.k8s.io/v1");
        assert!(new.get("involvedObject").is_none());
        assert_eq!(to_core(&new), core);
    }
}
