//! config-network.

use super::{Data, Template, Values, boolean, enabled, unsupported, value, whole_seconds};

/// How hosts are named, and how traffic moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Public hosts.
    pub domain_template: Template,
    /// The first label of a tag's host.
    pub tag_template: Template,
    /// Seconds over which traffic moves to a new Revision unless the object says otherwise; 0 is at once.
    pub rollout_seconds: i64,
    /// Whether a DomainMapping may claim a free name by itself.
    pub autocreate_claims: bool,
}

// === impl Network ===

impl Default for Network {
    fn default() -> Self {
        let parse = |text: &str| Template::parse(text).unwrap_or_else(|_| Template::text(text));
        Self {
            domain_template: parse("{{.Name}}.{{.Namespace}}.{{.Domain}}"),
            tag_template: parse("{{.Tag}}-{{.Name}}"),
            rollout_seconds: 0,
            autocreate_claims: false,
        }
    }
}

impl Network {
    /// Reads the ConfigMap.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn read(data: &Data) -> Result<Self, String> {
        for keys in [
            ["external-domain-tls", "auto-tls"],
            ["cluster-local-domain-tls", ""],
            ["system-internal-tls", "internal-encryption"],
        ] {
            if enabled(data, &keys) {
                return Err(unsupported(keys.first().unwrap_or(&""), "Enabled"));
            }
        }
        if let Some(protocol) = value(data, &["http-protocol", "httpProtocol"])
            && !protocol.eq_ignore_ascii_case("enabled")
        {
            return Err(unsupported("http-protocol", protocol));
        }
        if let Some(scheme) = value(data, &["default-external-scheme", "defaultExternalScheme"])
            && scheme != "http"
        {
            return Err(unsupported("default-external-scheme", scheme));
        }
        let plain = Self::default();
        let read = Self {
            domain_template: template(data, &["domain-template", "domainTemplate"], plain.domain_template)?,
            tag_template: template(data, &["tag-template", "tagTemplate"], plain.tag_template)?,
            rollout_seconds: whole_seconds(data, "rollout-duration", 0)?,
            autocreate_claims: boolean(data, "autocreate-cluster-domain-claims", false),
        };
        if read.rollout_seconds < 0 {
            return Err(format!(
                "rollout-duration must be a positive integer, but was {}",
                read.rollout_seconds
            ));
        }
        let host = read.domain_template.fill(&Values {
            name: "n",
            namespace: "s",
            domain: "example.com",
            ..Values::default()
        });
        if host.is_empty() || host.starts_with('.') {
            return Err(format!("domain-template makes no host: {host:?}"));
        }
        Ok(read)
    }
}

fn template(data: &Data, keys: &[&str], default: Template) -> Result<Template, String> {
    match value(data, keys) {
        None => Ok(default),
        Some(text) => Template::parse(text).map_err(|why| format!("{}: {why}", keys.first().unwrap_or(&""))),
    }
}
