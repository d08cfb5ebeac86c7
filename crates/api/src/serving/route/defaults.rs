use super::TrafficTarget;

/// Fills in the targets of a Route or Service.
pub(crate) fn traffic(traffic: &mut Vec<TrafficTarget>, service: bool) {
    if traffic.is_empty() && service {
        traffic.push(TrafficTarget {
            latest_revision: Some(true),
            percent: Some(100),
            ..TrafficTarget::default()
        });
    }
    for target in traffic {
        let named = target.revision_name.as_deref().is_some_and(|name| !name.is_empty());
        target.latest_revision.get_or_insert(!named);
    }
}
