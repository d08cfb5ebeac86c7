//! Header edits between client and instance, in place.

use std::net::IpAddr;

use http::header::{self, Entry};
use http::{HeaderMap, HeaderName, HeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
pub(crate) const HASH: HeaderName = HeaderName::from_static("k-network-hash");
pub(crate) const PROBE: HeaderName = HeaderName::from_static("k-network-probe");

/// Headers of Serving's own data plane: never believed when they come from a client, never shown to a workload.
const INTERNAL: [HeaderName; 5] = [
    HeaderName::from_static("knative-serving-revision"),
    HeaderName::from_static("knative-serving-namespace"),
    HeaderName::from_static("k-proxy-request"),
    HeaderName::from_static("k-original-host"),
    HeaderName::from_static("k-passthrough-lb"),
];

pub(crate) fn is_internal(name: &str) -> bool {
    INTERNAL.iter().any(|internal| internal.as_str().eq_ignore_ascii_case(name))
}

/// What is the same for all requests of one downstream connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    ip: IpAddr,
    address: HeaderValue,
}

impl Peer {
    pub(crate) fn new(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let address =
            HeaderValue::from_str(&ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { ip, address }
    }
}

/// Removes what concerns one connection only. Answers the protocol of an `Upgrade` request, if it is one.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut upgrade = None;
    if let Some(connection) = headers.remove(header::CONNECTION) {
        if let Ok(text) = connection.to_str()
            && !text.eq_ignore_ascii_case("keep-alive")
            && !text.eq_ignore_ascii_case("close")
        {
            for token in text.split(',').map(str::trim) {
                if token.eq_ignore_ascii_case("upgrade") {
                    upgrade = headers.remove(header::UPGRADE);
                } else if !token.eq_ignore_ascii_case("host")
                    && !token.eq_ignore_ascii_case("te")
                    && let Ok(name) = token.parse::<HeaderName>()
                {
                    headers.remove(name);
                }
            }
        }
        headers.remove(KEEP_ALIVE);
    }
    headers.remove(header::UPGRADE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    if headers.get(header::TE).is_some_and(|te| te.as_bytes() != b"trailers") {
        headers.remove(header::TE);
    }
    upgrade
}

/// Sets `X-Forwarded-*` and `Forwarded`; drops what only the platform may say.
pub(crate) fn forward(headers: &mut HeaderMap, peer: &Peer, host: &HeaderValue, outside: bool, secure: bool) {
    for name in &INTERNAL {
        headers.remove(name);
    }
    headers.remove(header::PROXY_AUTHORIZATION);
    let proto = HeaderValue::from_static(if secure { "https" } else { "http" });
    let chained = match headers.entry(X_FORWARDED_FOR) {
        Entry::Vacant(vacant) => {
            vacant.insert(peer.address.clone());
            false
        }
        Entry::Occupied(mut occupied) => {
            let mut text = Vec::new();
            for value in occupied.iter() {
                text.extend_from_slice(value.as_bytes());
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(peer.address.as_bytes());
            occupied.insert(HeaderValue::from_bytes(&text).unwrap_or_else(|_| peer.address.clone()));
            true
        }
    };
    if outside {
        headers.insert(X_FORWARDED_PROTO, proto.clone());
    } else if let Entry::Vacant(vacant) = headers.entry(X_FORWARDED_PROTO) {
        vacant.insert(proto.clone());
    }
    if let Entry::Vacant(vacant) = headers.entry(X_FORWARDED_HOST) {
        vacant.insert(host.clone());
    }
    if !headers.contains_key(header::FORWARDED)
        && let Some(value) = forwarded(headers, peer, chained)
    {
        headers.insert(header::FORWARDED, value);
    }
}

/// `for=<first>;host=<host>;proto=<proto>, for=<next>…` from the `X-Forwarded-*` headers.
fn forwarded(headers: &HeaderMap, peer: &Peer, chained: bool) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(64);
    let node = |text: &mut Vec<u8>, address: &[u8]| {
        text.extend_from_slice(b"for=");
        if address.contains(&b':') && !address.starts_with(b"\"") {
            text.extend_from_slice(b"\"[");
            text.extend_from_slice(address);
            text.extend_from_slice(b"]\"");
        } else {
            text.extend_from_slice(address);
        }
    };
    let value = headers.get(X_FORWARDED_FOR)?;
    let all = value.as_bytes();
    let mut addresses = all.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let first = if chained { addresses.next()? } else { peer.address.as_bytes() };
    if !chained && peer.ip.is_ipv4() {
        text.extend_from_slice(b"for=");
        text.extend_from_slice(first);
    } else {
        node(&mut text, first);
    }
    text.extend_from_slice(b";host=");
    let host = headers.get(X_FORWARDED_HOST)?.as_bytes();
    // RFC 7239: a value that is no token is quoted, and a host with a port is none.
    if host.contains(&b':') && !host.starts_with(b"\"") {
        text.push(b'"');
        text.extend_from_slice(host);
        text.push(b'"');
    } else {
        text.extend_from_slice(host);
    }
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(headers.get(X_FORWARDED_PROTO)?.as_bytes());
    if chained {
        for address in addresses {
            text.extend_from_slice(b", ");
            node(&mut text, address);
        }
    }
    HeaderValue::from_bytes(&text).ok()
}

/// Cleans a response for the next hop.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn a_direct_client_is_told_to_the_workload() {
        let mut headers = HeaderMap::new();
        headers.insert("knative-serving-revision", value("forged"));
        forward(&mut headers, &Peer::new([10, 0, 0, 9].into()), &value("h.example.com:8080"), true, false);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "h.example.com:8080");
        assert_eq!(headers["forwarded"], "for=10.0.0.9;host=\"h.example.com:8080\";proto=http");
        assert!(!headers.contains_key("knative-serving-revision"));
    }

    #[test]
    fn a_chain_of_proxies_is_appended_to_and_ipv6_is_quoted() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", value("2001:db8::1, 10.1.1.1"));
        forward(&mut headers, &Peer::new([10, 0, 0, 9].into()), &value("h"), true, true);
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1, 10.1.1.1, 10.0.0.9");
        assert_eq!(
            headers["forwarded"],
            "for=\"[2001:db8::1]\";host=h;proto=https, for=10.1.1.1, for=10.0.0.9"
        );
    }

    #[test]
    fn headers_of_one_hop_are_removed_and_an_upgrade_is_reported() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", value("keep-alive, Upgrade, x-private"));
        headers.insert("keep-alive", value("timeout=5"));
        headers.insert("x-private", value("1"));
        headers.insert("upgrade", value("websocket"));
        headers.insert("te", value("gzip"));
        headers.insert("x-public", value("1"));
        assert_eq!(strip_hop_by_hop(&mut headers), Some(value("websocket")));
        assert_eq!(headers.len(), 1);
        headers.insert("te", value("trailers"));
        assert_eq!(strip_hop_by_hop(&mut headers), None);
        assert_eq!(headers["te"], "trailers");
    }
}
