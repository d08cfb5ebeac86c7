//! Requests to one repository: authorisation, redirects, retries.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dormouse_base::backoff::Backoff;
use dormouse_base::clock;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Body, Client, Payload, body, detail, resolve_location};
use crate::auth::{Auth, Credentials};
use crate::error::{Error, Result};
use crate::reference::Reference;

/// How often a request is tried again after a failure that may pass.
pub(crate) const RETRIES_MAX: u32 = 3;
/// The most redirects in a row.
const REDIRECTS_MAX: u32 = 5;
/// The longest wait that a registry may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// The largest answer of a token service.
const TOKEN_BYTES_MAX: u64 = 256 << 10;

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5), jitter_percent: 30 };

/// Work with one repository of one registry; remembers the token.
pub(crate) struct Session {
    client: Client,
    reference: Reference,
    /// The host that serves the API.
    host: String,
    actions: &'static str,
    also_read: Option<String>,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// One request, repeatable.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) payload: Payload,
    /// For errors: what this request is for.
    pub(crate) doing: String,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A path (with query) of the registry.
    Path(String),
    /// A place that the registry named.
    Place(Uri),
}

/// An answer and where it came from, after redirects.
pub(crate) struct Answer {
    pub(crate) uri: Uri,
    pub(crate) response: Response<Incoming>,
}

// === impl Session ===

impl Session {
    /// Prepares work with the repository of `reference`; nothing is sent yet.
    pub(crate) async fn open(
        client: &Client,
        reference: &Reference,
        auth: &Auth,
        actions: &'static str,
        also_read: Option<String>,
    ) -> Result<Self> {
        let credentials = auth.find(reference.registry(), reference.repository()).await?;
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io".to_owned(),
            other => other.to_owned(),
        };
        Ok(Self {
            client: client.clone(),
            reference: reference.clone(),
            host,
            actions,
            also_read,
            credentials,
            authorization: Mutex::default(),
        })
    }

    /// The host that is asked.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// What this session works with.
    pub(crate) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A path below the repository.
    pub(crate) fn path(&self, rest: &str) -> Target {
        Target::Path(format!("/v2/{}/{rest}", self.reference.repository()))
    }

    /// Sends `call`, authenticating, following redirects and repeating as needed. Client errors are answers.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer> {
        let (mut attempt, mut challenged) = (0, false);
        loop {
            let result = self.follow(call).await;
            let wait = match &result {
                Ok(answer) if answer.response.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    challenged = true;
                    self.authenticate(call, &answer.response).await?;
                    continue;
                }
                Ok(answer) if passing(answer.response.status()) => retry_after(&answer.response),
                Err(Error::Unreachable { .. } | Error::Timeout { .. }) => None,
                _ => return result,
            };
            if attempt >= RETRIES_MAX {
                return result;
            }
            clock::sleep(wait.unwrap_or_else(|| BACKOFF.delay(attempt, fastrand::f64()))).await;
            attempt += 1;
        }
    }

    /// Turns an answer that is not a success into an error. A missing manifest is the caller's to name.
    pub(crate) async fn expect(&self, call: &Call, answer: Answer, good: &[StatusCode]) -> Result<Answer> {
        let status = answer.response.status();
        if good.contains(&status) {
            return Ok(answer);
        }
        let host = self.host.clone();
        let detail = detail(answer.response.into_body()).await;
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(status, detail),
            StatusCode::NOT_FOUND if call.target.is_manifest() => {
                Error::NotFound { reference: self.reference.to_string(), host }
            }
            _ => Error::Status { host, doing: call.doing.clone(), status: status.as_u16(), detail },
        })
    }

    fn denied(&self, status: StatusCode, detail: String) -> Error {
        let hint = match (&self.credentials, status) {
            (None, _) => format!("no credentials were given, or it does not exist ({detail})"),
            (Some(_), StatusCode::UNAUTHORIZED) => format!("wrong credentials ({detail})"),
            (Some(_), _) => format!("the credentials do not allow it ({detail})"),
        };
        let (reference, host) = (self.reference.to_string(), self.host.clone());
        Error::Denied { reference, host, status: status.as_u16(), hint }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn request(&self, call: &Call, uri: &Uri, authorized: bool) -> Result<Request<Body>> {
        let mut request = Request::builder().method(call.method.clone()).uri(uri.clone());
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if !matches!(call.method, Method::GET | Method::HEAD) {
            request = request.header(CONTENT_LENGTH, call.payload.length());
        }
        if let Some(value) = self.authorization().filter(|_| authorized) {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(call.payload.body()).map_err(|error| self.broken(format!("unusable address: {error}")))
    }

    fn broken(&self, reason: String) -> Error {
        Error::Protocol { host: self.host.clone(), reason }
    }

    /// Sends once and follows redirects of reads. The token goes to the registry only.
    async fn follow(&self, call: &Call) -> Result<Answer> {
        let (mut uri, mut response) = match &call.target {
            Target::Path(path) => {
                let uri = |scheme: &Scheme| -> Result<Uri> {
                    format!("{scheme}://{}{path}", self.host)
                        .parse()
                        .map_err(|error| self.broken(format!("unusable address: {error}")))
                };
                let build = |scheme: Scheme| self.request(call, &uri(&scheme)?, true);
                let (scheme, response) = self.client.send_to(&self.host, &call.doing, build).await?;
                (uri(&scheme)?, response)
            }
            Target::Place(place) => {
                let response = self.place(call, place).await?;
                (place.clone(), response)
            }
        };
        let mut redirects = 0;
        while response.status().is_redirection() && matches!(call.method, Method::GET | Method::HEAD) {
            redirects += 1;
            if redirects > REDIRECTS_MAX {
                return Err(self.broken(format!("more than {REDIRECTS_MAX} redirects")));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location
                .and_then(|location| resolve_location(&uri, location))
                .ok_or_else(|| self.broken("a redirect without a usable location".into()))?;
            response = self.place(call, &next).await?;
            uri = next;
        }
        Ok(Answer { uri, response })
    }

    /// Sends to a place that the registry named: never in clear unless that host may be, the token only to itself.
    async fn place(&self, call: &Call, place: &Uri) -> Result<Response<Incoming>> {
        let authority = place.authority().map(|authority| authority.as_str()).unwrap_or_default();
        if place.scheme() != Some(&Scheme::HTTPS) && !self.client.plain_allowed(authority) {
            return Err(self.broken(format!("it leads to {authority} without TLS")));
        }
        let own = authority == self.host;
        self.client.send(authority, &call.doing, self.request(call, place, own)?).await
    }

    /// Answers a challenge: basic credentials or a token from the service that the challenge names.
    async fn authenticate(&self, call: &Call, response: &Response<Incoming>) -> Result<()> {
        let challenges: Vec<&str> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let scheme = |name: &str| {
            challenges.iter().find_map(|challenge| {
                let (kind, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
                kind.eq_ignore_ascii_case(name).then_some(rest)
            })
        };
        let header = match (&self.credentials, scheme("bearer"), scheme("basic")) {
            (Some(Credentials::RegistryToken(token)), _, _) => format!("Bearer {token}"),
            (_, Some(challenge), _) => format!("Bearer {}", self.token(call, challenge).await?),
            (Some(Credentials::Basic { user, password }), None, Some(_)) => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
            _ => return Ok(()),
        };
        let mut value = HeaderValue::from_str(&header)
            .map_err(|_| self.denied(StatusCode::UNAUTHORIZED, "unusable credentials".into()))?;
        value.set_sensitive(true);
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    async fn token(&self, call: &Call, challenge: &str) -> Result<String> {
        let parameter = |name| parameter(challenge, name);
        let realm = parameter("realm").ok_or_else(|| self.broken("a challenge without realm".into()))?;
        let realm_uri: Uri = realm
            .parse()
            .map_err(|_| self.broken(format!("a challenge with the unusable realm {realm:?}")))?;
        let authority = realm_uri.authority().map(|authority| authority.to_string()).unwrap_or_default();
        if realm_uri.scheme() != Some(&Scheme::HTTPS) && !self.client.plain_allowed(&authority) {
            return Err(self.broken(format!("its token service {authority} has no TLS")));
        }
        let service = parameter("service").unwrap_or_default();
        let mut scopes = vec![format!("repository:{}:{}", self.reference.repository(), self.actions)];
        scopes.extend(self.also_read.as_ref().map(|other| format!("repository:{other}:pull")));
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut query = format!("service={}", encode(&service));
        let request = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                let form = format!(
                    "grant_type=refresh_token&client_id=dormouse&{query}&scope={}&refresh_token={}",
                    encode(&scopes.join(" ")),
                    encode(token)
                );
                Request::post(realm_uri)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .header(CONTENT_LENGTH, form.len())
                    .body(Payload::Bytes(form.into()).body())
            }
            other => {
                for scope in &scopes {
                    query.push_str(&format!("&scope={}", encode(scope)));
                }
                let joint = if realm.contains('?') { '&' } else { '?' };
                let mut request = Request::get(format!("{realm}{joint}{query}"));
                if let Some(Credentials::Basic { user, password }) = other {
                    let basic = STANDARD.encode(format!("{user}:{password}"));
                    request = request.header(AUTHORIZATION, format!("Basic {basic}"));
                }
                request.body(Payload::Empty.body())
            }
        };
        let request = request.map_err(|error| self.broken(format!("unusable realm: {error}")))?;
        let doing = format!("asking for a token for {}", call.doing);
        let response = self.client.send(&authority, &doing, request).await?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.denied(status, detail(response.into_body()).await));
        }
        if status != StatusCode::OK {
            let detail = detail(response.into_body()).await;
            return Err(Error::Status { host: authority, doing, status: status.as_u16(), detail });
        }
        let bytes = body(&authority, &doing, response.into_body(), TOKEN_BYTES_MAX).await?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let field =
            |name: &str| answer.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
        let token = field("token").or_else(|| field("access_token"));
        token.map(str::to_owned).ok_or_else(|| self.broken("a token service that gives no token".into()))
    }
}

impl Target {
    fn is_manifest(&self) -> bool {
        matches!(self, Self::Path(path) if path.contains("/manifests/"))
    }
}

fn passing(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status.is_server_error() && !matches!(status.as_u16(), 501 | 505)
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// One `name="value"` of a challenge.
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']);
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_inside_quotes() {
        let challenge =
            r#"realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        assert_eq!(parameter(challenge, "realm").as_deref(), Some("https://auth.example/token"));
        assert_eq!(parameter(challenge, "Service").as_deref(), Some("r.example"));
        assert_eq!(parameter(challenge, "scope").as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(parameter(challenge, "none"), None);
    }
}
