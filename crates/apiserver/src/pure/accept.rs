//! Which representation a client wants.

/// What to answer with. The media type is JSON in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Representation {
    /// The object as it is.
    Json,
    /// A table, as `kubectl get` shows it.
    Table,
    /// Only the metadata of one object.
    PartialMetadata,
    /// Only the metadata of each item.
    PartialMetadataList,
    /// Every resource of every group in one document.
    AggregatedDiscovery(DiscoveryVersion),
}

/// Versions of aggregated discovery; the documents have the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiscoveryVersion {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

impl Representation {
    /// The Content-Type of an answer in this representation.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::AggregatedDiscovery(DiscoveryVersion::V2) => {
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
            Self::AggregatedDiscovery(DiscoveryVersion::V2Beta1) => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
            _ => "application/json",
        }
    }
}

/// The first representation in the list that we have. Protobuf is passed over: clients that offer it also take JSON,
/// and those that offer nothing else get an error.
///
/// Aggregated discovery is offered on `/api` and `/apis` only; elsewhere the caller treats it as JSON.
pub(crate) fn negotiate(accept: &str) -> Result<Representation, ()> {
    if accept.trim().is_empty() {
        return Ok(Representation::Json);
    }
    let mut ranges: Vec<(f32, &str)> = accept.split(',').map(|range| (quality(range), range)).collect();
    // Stable: equal quality keeps the client's order.
    ranges.sort_by(|left, right| right.0.total_cmp(&left.0));
    ranges.iter().filter(|(quality, _)| *quality > 0.0).find_map(|(_, range)| representation(range)).ok_or(())
}

fn parameters(range: &str) -> impl Iterator<Item = (&str, &str)> {
    range.split(';').skip(1).filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.trim(), value.trim().trim_matches('"')))
    })
}

fn quality(range: &str) -> f32 {
    parameters(range).find(|(key, _)| *key == "q").and_then(|(_, value)| value.parse().ok()).unwrap_or(1.0)
}

fn representation(range: &str) -> Option<Representation> {
    let media_type = range.split(';').next().unwrap_or_default().trim();
    if !matches!(media_type, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let find = |name: &str| parameters(range).find(|(key, _)| *key == name).map(|(_, value)| value);
    match (find("as"), find("g"), find("v")) {
        (None, _, _) => Some(Representation::Json),
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Representation::Table),
        (Some("PartialObjectMetadata"), Some("meta.k8s.io"), Some("v1")) => {
            Some(Representation::PartialMetadata)
        }
        (Some("PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            Some(Representation::PartialMetadataList)
        }
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
            Some(Representation::AggregatedDiscovery(DiscoveryVersion::V2))
        }
        (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
            Some(Representation::AggregatedDiscovery(DiscoveryVersion::V2Beta1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expect: Result<Representation, ()>) {
        assert_eq!(negotiate(accept), expect, "{accept}");
    }

    #[test]
    fn each_client_gets_the_first_form_that_we_have() {
        check("", Ok(Representation::Json));
        check("*/*", Ok(Representation::Json));
        check("application/json, */*", Ok(Representation::Json));
        check("application/vnd.kubernetes.protobuf,application/json", Ok(Representation::Json));
        check("application/vnd.kubernetes.protobuf, */*", Ok(Representation::Json));
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Ok(Representation::Table));
        check("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Ok(Representation::Json));
        check(
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            Ok(Representation::PartialMetadata),
        );
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            Ok(Representation::PartialMetadataList),
        );
    }

    #[test]
    fn discovery_answers_only_the_version_that_is_offered() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        check(
            &format!("{v2},{beta},application/json"),
            Ok(Representation::AggregatedDiscovery(DiscoveryVersion::V2)),
        );
        check(
            &format!("{beta},application/json"),
            Ok(Representation::AggregatedDiscovery(DiscoveryVersion::V2Beta1)),
        );
        check(
            &format!("{v2};profile=nopeer,application/json"),
            Ok(Representation::AggregatedDiscovery(DiscoveryVersion::V2)),
        );
    }

    #[test]
    fn quality_orders_and_zero_excludes() {
        check(
            "application/json;q=0.5,application/json;as=Table;v=v1;g=meta.k8s.io",
            Ok(Representation::Table),
        );
        check("application/json;q=0", Err(()));
    }

    #[test]
    fn nothing_acceptable_is_an_error() {
        check("application/vnd.kubernetes.protobuf", Err(()));
        check("text/html", Err(()));
    }
}
