//! config-defaults.

use super::{Data, Template, boolean, value, whole_seconds};
use crate::vocabulary::{
    DEFAULT_TIMEOUT_SECONDS, INIT_CONTAINER, MAX_CONTAINER_CONCURRENCY, MAX_TIMEOUT_SECONDS, USER_CONTAINER,
};

/// Resources that a default may be given for.
pub(crate) const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Defaults and bounds of Revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// `timeoutSeconds` when unset.
    pub timeout: i64,
    /// The largest allowed `timeoutSeconds`.
    pub timeout_max: i64,
    /// `responseStartTimeoutSeconds` when unset; 0 is none.
    pub response_start_timeout: i64,
    /// `idleTimeoutSeconds` when unset; 0 is none.
    pub idle_timeout: i64,
    /// `containerConcurrency` when unset.
    pub concurrency: i64,
    /// The largest allowed `containerConcurrency`.
    pub concurrency_max: i64,
    /// Whether `containerConcurrency: 0` (unlimited) is allowed.
    pub allow_unlimited: bool,
    /// `enableServiceLinks` when unset; `None` leaves it unset.
    pub service_links: Option<bool>,
    /// Requests of a container that names none, by resource.
    pub requests: Data,
    /// Limits of a container that names none, by resource.
    pub limits: Data,
    /// Names of containers that have none.
    pub container_name: Template,
    /// Names of init containers that have none.
    pub init_container_name: Template,
}

// === impl Defaults ===

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT_SECONDS,
            timeout_max: MAX_TIMEOUT_SECONDS,
            response_start_timeout: DEFAULT_TIMEOUT_SECONDS,
            idle_timeout: 0,
            concurrency: 0,
            concurrency_max: MAX_CONTAINER_CONCURRENCY,
            allow_unlimited: true,
            service_links: Some(false),
            requests: Data::new(),
            limits: Data::new(),
            container_name: Template::text(USER_CONTAINER),
            init_container_name: Template::text(INIT_CONTAINER),
        }
    }
}

impl Defaults {
    /// Reads the ConfigMap.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn read(data: &Data) -> Result<Self, String> {
        let plain = Self::default();
        let timeout = whole_seconds(data, "revision-timeout-seconds", plain.timeout)?;
        let read = Self {
            timeout,
            timeout_max: whole_seconds(data, "max-revision-timeout-seconds", plain.timeout_max)?,
            response_start_timeout: whole_seconds(
                data,
                "revision-response-start-timeout-seconds",
                plain.response_start_timeout.min(timeout),
            )?,
            idle_timeout: whole_seconds(data, "revision-idle-timeout-seconds", plain.idle_timeout)?,
            concurrency: whole_seconds(data, "container-concurrency", plain.concurrency)?,
            concurrency_max: whole_seconds(data, "container-concurrency-max-limit", plain.concurrency_max)?,
            allow_unlimited: boolean(data, "allow-container-concurrency-zero", plain.allow_unlimited),
            service_links: service_links(data)?,
            requests: resources(data, "request")?,
            limits: resources(data, "limit")?,
            container_name: name(data, "container-name-template", plain.container_name)?,
            init_container_name: name(data, "init-container-name-template", plain.init_container_name)?,
        };
        read.consistent()?;
        Ok(read)
    }

    fn consistent(&self) -> Result<(), String> {
        let bound = |what: &str, value: i64, most: &str, limit: i64| {
            if value > limit {
                Err(format!("{what} ({value}) cannot be greater than {most} ({limit})"))
            } else {
                Ok(())
            }
        };
        bound("revision-timeout-seconds", self.timeout, "max-revision-timeout-seconds", self.timeout_max)?;
        for (what, value) in [
            ("revision-response-start-timeout-seconds", self.response_start_timeout),
            ("revision-idle-timeout-seconds", self.idle_timeout),
        ] {
            bound(what, value, "revision-timeout-seconds", self.timeout)?;
        }
        if self.concurrency_max < 1 {
            return Err(format!(
                "container-concurrency-max-limit ({}) must be at least 1",
                self.concurrency_max
            ));
        }
        let least = if self.allow_unlimited { 0 } else { 1 };
        if !(least..=self.concurrency_max).contains(&self.concurrency) {
            return Err(format!(
                "expected {least} <= {} <= {}: container-concurrency",
                self.concurrency, self.concurrency_max
            ));
        }
        Ok(())
    }
}

fn service_links(data: &Data) -> Result<Option<bool>, String> {
    match value(data, &["enable-service-links"]) {
        None | Some("false") => Ok(Some(false)),
        Some("true") => Ok(Some(true)),
        Some("default") => Ok(None),
        Some(other) => Err(format!("enable-service-links: {other:?} is none of true, false and default")),
    }
}

fn resources(data: &Data, what: &str) -> Result<Data, String> {
    let mut found = Data::new();
    for resource in RESOURCES {
        let key = format!("revision-{resource}-{what}");
        match value(data, &[&key]) {
            None | Some("") => {}
            Some(text) if crate::serving::meta::is_quantity(text) => {
                found.insert(resource.to_owned(), text.to_owned());
            }
            Some(text) => return Err(format!("failed to parse {key:?}: {text:?} is not a quantity")),
        }
    }
    Ok(found)
}

fn name(data: &Data, key: &str, default: Template) -> Result<Template, String> {
    match value(data, &[key]) {
        None => Ok(default),
        Some(text) => Template::parse(text).map_err(|why| format!("{key}: {why}")),
    }
}
