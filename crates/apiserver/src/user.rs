//! Who asks, and whether they may.

use http::{HeaderMap, Method};

use crate::pure::status::Status;

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";

/// An authenticated identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserInfo {
    /// The name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
}

impl UserInfo {
    /// A member of `system:masters`: may do everything.
    pub fn master(name: impl Into<String>) -> Self {
        Self { name: name.into(), groups: vec![MASTERS.into(), AUTHENTICATED.into()] }
    }

    /// An authenticated user with the groups of its certificate.
    pub fn authenticated(name: impl Into<String>, mut groups: Vec<String>) -> Self {
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        Self { name: name.into(), groups }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()] }
    }

    pub(crate) fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    fn in_group(&self, name: &str) -> bool {
        self.groups.iter().any(|group| group == name)
    }
}

/// What is to be done to what, in the words of the authorizer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// `plural` or `plural/subresource`.
    pub(crate) resource: String,
    pub(crate) namespace: Option<&'a str>,
}

/// The effective user: impersonation applied, bad credentials refused.
pub(crate) fn effective(user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, Status> {
    if user.is_anonymous() && headers.contains_key(http::header::AUTHORIZATION) {
        // No token authenticator exists yet, so every token is a bad one.
        return Err(Status::unauthorized());
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Some(name) = text("impersonate-user") else { return Ok(user) };
    if !user.is_master() {
        return Err(Status::forbidden(format!(
            "users \"{name}\" is forbidden: User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        )));
    }
    let groups = headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok());
    Ok(UserInfo::authenticated(name, groups.map(str::to_owned).collect()))
}

/// Whether `user` may read a path that is no resource.
pub(crate) fn authorize_path(user: &UserInfo, method: &Method, path: &str) -> Result<(), Status> {
    // Whoever verifies a token needs no account here.
    let public =
        ["/healthz", "/livez", "/readyz", "/version", "/.well-known/openid-configuration", "/openid/v1/jwks"]
            .contains(&path);
    let discovery = path == "/"
        || ["/api", "/apis", "/openapi"]
            .iter()
            .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if user.is_master() || public || (discovery && user.in_group(AUTHENTICATED)) {
        return Ok(());
    }
    let verb = method.as_str().to_ascii_lowercase();
    Err(Status::forbidden(format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name)))
}

/// Whether `user` may do this to a resource. Only masters may anything until roles are evaluated.
pub(crate) fn authorize(user: &UserInfo, attributes: &Attributes<'_>) -> Result<(), Status> {
    if user.is_master() {
        return Ok(());
    }
    let Attributes { verb, group, resource, namespace } = attributes;
    let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let place = match namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".into(),
    };
    Err(Status::forbidden(format!(
        "{qualified} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}",
        user.name
    )))
}
