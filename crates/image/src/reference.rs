//! Image references: `[registry/]repository[:tag][@digest]`, normalised as docker does.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::Error;

/// The registry of names that carry none.
const DOCKER_HUB: &str = "docker.io";
/// The tag of names that carry neither tag nor digest.
const LATEST: &str = "latest";
/// The longest repository name.
const REPOSITORY_MAX: usize = 255;
/// The longest tag.
const TAG_MAX: usize = 128;

/// A normalised image reference; carries a tag, a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

// === impl Reference ===

impl Reference {
    /// Reads a reference as users write it: `nginx`, `me/app:v1`, `localhost:5000/x@sha256:…`.
    ///
    /// # Errors
    /// [`Error::Reference`] says which part is wrong.
    pub fn parse(input: &str) -> Result<Self, Error> {
        parse(input).map_err(|reason| Error::Reference { input: input.chars().take(300).collect(), reason })
    }

    /// The registry's host with its port, if any: `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when the input had neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the input had one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same name at a digest.
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same name in another registry.
    pub(crate) fn in_registry(&self, registry: &str) -> Self {
        Self { registry: registry.to_owned(), ..self.clone() }
    }

    /// The reference of a repository served by `registry`; `at` is a tag or a digest, both already checked.
    pub(crate) fn of(registry: &str, repository: &str, at: At) -> Self {
        let (tag, digest) = match at {
            At::Tag(tag) => (Some(tag), None),
            At::Digest(digest) => (None, Some(digest)),
        };
        Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest }
    }

    /// What a registry is asked for: the digest when there is one, else the tag.
    pub(crate) fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => LATEST.to_owned(),
        }
    }
}

/// Where in a repository a manifest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// By its tag.
    Tag(String),
    /// By its digest.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self, Error> {
        Self::parse(input)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(input: &str) -> Result<Reference, String> {
    if input.is_empty() {
        return Err("it is empty".into());
    }
    if let Some(scheme) =
        ["http://", "https://", "docker://"].iter().find(|scheme| input.starts_with(**scheme))
    {
        return Err(format!("remove {scheme}: a reference has no scheme"));
    }
    let (rest, digest) = match input.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse::<Digest>().map_err(|error| error.to_string())?;
            (rest, Some(digest))
        }
        None => (input, None),
    };
    // A colon after the last slash starts the tag; one before it is a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host, path.to_owned()),
        Some(_) => (DOCKER_HUB, name.to_owned()),
        None => (DOCKER_HUB, format!("library/{name}")),
    };
    let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
    check_host(registry)?;
    let repository = match repository.contains('/') || registry != DOCKER_HUB {
        true => repository,
        false => format!("library/{repository}"),
    };
    check_repository(&repository)?;
    let tag = match (tag, digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some(LATEST.to_owned()),
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// Docker's rule: the first component is a host when it looks like one.
fn is_host(component: &str) -> bool {
    component.contains(['.', ':'])
        || component == "localhost"
        || component.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let valid = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    if !valid {
        return Err(format!("{host:?} is not a registry host"));
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() => Err(format!("{port:?} is not a port")),
        _ => Ok(()),
    }
}

/// Checks a repository name: lowercase components joined by slashes.
pub(crate) fn check_repository(repository: &str) -> Result<(), String> {
    if repository.len() > REPOSITORY_MAX {
        return Err(format!("the repository name is longer than {REPOSITORY_MAX} bytes"));
    }
    for component in repository.split('/') {
        if component.is_empty() {
            return Err("the repository name has an empty component".into());
        }
        if let Some(bad) = component
            .chars()
            .find(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !matches!(c, '.' | '_' | '-'))
        {
            return Err(format!(
                "the repository name must not contain {bad:?} (lowercase letters, digits, . _ - only)"
            ));
        }
        // Separators stand between alphanumerics: one dot, one or two underscores, any number of dashes.
        let separated = component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .filter(|run| !run.is_empty())
            .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'));
        let edges = component.starts_with(['.', '_', '-']) || component.ends_with(['.', '_', '-']);
        if edges || !separated {
            return Err(format!("the repository component {component:?} has misplaced separators"));
        }
    }
    Ok(())
}

/// Checks a tag.
pub(crate) fn check_tag(tag: &str) -> Result<(), String> {
    if tag.is_empty() {
        return Err("the tag is empty".into());
    }
    if tag.len() > TAG_MAX {
        return Err(format!("the tag is longer than {TAG_MAX} characters"));
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !tag.starts_with(word) || !tag.chars().all(|c| word(c) || matches!(c, '.' | '-')) {
        return Err(format!("{tag:?} is not a tag (letters, digits, _ . - only, not starting with . or -)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_normalised() {
        for (input, expect) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.25", "docker.io/library/nginx:1.25".into()),
            ("me/app", "docker.io/me/app:latest".into()),
            ("docker.io/nginx", "docker.io/library/nginx:latest".into()),
            ("index.docker.io/me/app:v1", "docker.io/me/app:v1".into()),
            ("localhost/app", "localhost/app:latest".into()),
            ("localhost:5000/a/b-c__d.e:x", "localhost:5000/a/b-c__d.e:x".into()),
            ("127.0.0.1:5000/x:tag", "127.0.0.1:5000/x:tag".into()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".into()),
            ("ko.local/f-0123:latest", "ko.local/f-0123:latest".into()),
            (&format!("gcr.io/a/b@sha256:{HEX}"), format!("gcr.io/a/b@sha256:{HEX}")),
            (&format!("gcr.io/a/b:v1@sha256:{HEX}"), format!("gcr.io/a/b:v1@sha256:{HEX}")),
        ] {
            let parsed = Reference::parse(input).unwrap();
            assert_eq!(parsed.to_string(), expect);
            assert_eq!(Reference::parse(&expect).unwrap(), parsed);
        }
    }

    #[test]
    fn bad_references_say_what_is_wrong() {
        for (input, expect) in [
            ("", "empty"),
            ("https://gcr.io/x", "no scheme"),
            ("Nginx", "'N'"),
            ("a//b", "empty component"),
            ("a/../b", "separators"),
            ("a b", "' '"),
            ("x:", "tag is empty"),
            ("x:-a", "is not a tag"),
            ("x@sha256:12", "64 lowercase"),
            ("x@md5:12", "only sha256 and sha512"),
            ("host:port/x", "not a port"),
            ("-a.b/x", "registry host"),
            ("a-/b", "separators"),
            ("a___b", "separators"),
        ] {
            let text = Reference::parse(input).unwrap_err().to_string();
            assert!(text.contains(expect), "{input}: {text}");
        }
    }
}
