//! Tokens of service accounts: signed statements of who a workload is, for others to verify with the published key.
//!
//! They open nothing here: this API server knows rights of administrators only, so a workload gets none by a token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who issues the tokens, in the tokens and to those who verify them.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Kubernetes' bounds of a token's life, in seconds.
const LIFE_MIN: i64 = 600;
const LIFE_MAX: i64 = 1 << 32;
const LIFE_DEFAULT: i64 = 3600;
/// Bytes of a coordinate or of half a signature on the curve P-256.
const HALF: usize = 32;

/// Signs tokens.
#[derive(Clone)]
pub struct Signer {
    key: std::sync::Arc<KeyPair>,
    id: String,
}

/// What a token states.
pub(crate) struct Claims<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) account_uid: &'a str,
    pub(crate) audiences: Vec<String>,
    pub(crate) seconds: Option<i64>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signer")
    }
}

impl Signer {
    pub(crate) fn new(key: KeyPair) -> Self {
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.der_bytes()));
        Self { key: std::sync::Arc::new(key), id }
    }

    /// A token and when it ends.
    pub(crate) fn sign(&self, claims: &Claims<'_>, now: Timestamp) -> Option<(String, Timestamp)> {
        let seconds = claims.seconds.unwrap_or(LIFE_DEFAULT).clamp(LIFE_MIN, LIFE_MAX);
        let (start, end) = (now.as_second(), now.as_second() + seconds);
        let Claims { namespace, account, account_uid, .. } = claims;
        let header = json!({ "alg": "ES256", "kid": self.id, "typ": "JWT" });
        let body = json!({
            "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "aud": claims.audiences, "iat": start, "nbf": start, "exp": end,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": {
                "namespace": namespace, "serviceaccount": { "name": account, "uid": account_uid },
            },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&body));
        let signature = fixed(&self.key.sign(text.as_bytes()).ok()?)?;
        let ends = Timestamp::from_second(end).ok()?;
        Some((format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)), ends))
    }

    /// The public key for those who verify tokens.
    pub(crate) fn key_set(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let coordinate = |from: usize| {
            self.key.der_bytes().get(from..from + HALF).map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
        };
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
            "x": coordinate(1), "y": coordinate(1 + HALF),
        }]})
    }
}

/// Where verifiers find the key.
pub(crate) fn discovery() -> Value {
    json!({
        "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// An ECDSA signature from ASN.1 (two integers in a sequence) to the two halves that JSON Web Signatures want.
fn fixed(der: &[u8]) -> Option<Vec<u8>> {
    let [0x30, length, rest @ ..] = der else { return None };
    if usize::from(*length) != rest.len() {
        return None;
    }
    let (first, rest) = integer(rest)?;
    let (second, rest) = integer(rest)?;
    rest.is_empty().then(|| [first, second].concat())
}

fn integer(der: &[u8]) -> Option<([u8; HALF], &[u8])> {
    let [0x02, length, rest @ ..] = der else { return None };
    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
    let value = match value {
        [0, rest @ ..] if rest.len() == HALF => rest,
        value => value,
    };
    let mut half = [0; HALF];
    half.get_mut(HALF.checked_sub(value.len())?..)?.copy_from_slice(value);
    Some((half, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_states_who_and_for_whom_and_has_a_signature_of_two_halves() {
        let signer = Signer::new(KeyPair::generate().unwrap());
        let claims = Claims {
            namespace: "default",
            account: "robot",
            account_uid: "u1",
            audiences: vec!["api".into()],
            seconds: Some(1),
        };
        for _ in 0..64 {
            let (token, ends) = signer.sign(&claims, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(ends.as_second(), LIFE_MIN, "no token is shorter than ten minutes");
            let parts: Vec<Vec<u8>> =
                token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
            let body: Value = serde_json::from_slice(&parts[1]).unwrap();
            assert_eq!(body["sub"], "system:serviceaccount:default:robot");
            assert_eq!((&body["aud"], &body["exp"]), (&json!(["api"]), &json!(LIFE_MIN)));
            assert_eq!(parts[2].len(), 2 * HALF);
        }
    }

    #[test]
    fn short_and_long_integers_fit_their_halves() {
        let mut der = vec![0x30, 2 + 1 + 2 + 33, 0x02, 1, 7, 0x02, 33, 0];
        der.extend([0xff; 32]);
        let both = fixed(&der).unwrap();
        assert_eq!((both[31], &both[..31]), (7, &[0; 31][..]));
        assert_eq!(both[32..], [0xff; 32]);
        assert_eq!(fixed(&der[..20]), None);
    }
}
