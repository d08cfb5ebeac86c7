//! One HTTP request, as `invoke` and `run` send it: to an address, by the name in its URL.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// As long as upstream waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read of an answer.
const ANSWER_MAX: usize = 64 << 20;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// What the request names.
    pub(super) url: Uri,
    /// What is connected to [default: the URL's own host].
    pub(super) address: Option<String>,
    /// Whether any certificate will do.
    pub(super) insecure: bool,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends one request within a minute.
pub(super) async fn send(
    target: &Target,
    method: &str,
    headers: &[(String, String)],
    body: Bytes,
) -> anyhow::Result<Answer> {
    let work = exchange(target, method, headers, body);
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(answer) => answer.with_context(|| format!("{method} {}", target.url)),
        Err(_) => bail!("{method} {}: no answer within {PATIENCE:?}", target.url),
    }
}

async fn exchange(
    target: &Target,
    method: &str,
    headers: &[(String, String)],
    body: Bytes,
) -> anyhow::Result<Answer> {
    let authority = target.url.authority().context("the URL has no host")?;
    let tls = match target.url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("the URL must begin with http:// or https://"),
    };
    let host = authority.host();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let place = target.address.clone().unwrap_or_else(|| format!("{host}:{port}"));
    let stream = TcpStream::connect(&place).await.with_context(|| format!("connect to {place}"))?;
    let path = target.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(method)
        .uri(if path.is_empty() { "/" } else { path })
        .header("host", authority.as_str())
        .header("user-agent", concat!("dormouse/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(body)).context("build the request")?;
    if tls {
        let name =
            ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).context("the host's name")?;
        let connector = TlsConnector::from(Arc::new(config(target.insecure)?));
        let stream = connector.connect(name, stream).await.with_context(|| format!("TLS with {place}"))?;
        talk(stream, request).await
    } else {
        talk(stream, request).await
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?.to_bytes();
        anyhow::Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::pin!(connection);
    tokio::select! {
        // The answer first: the connection may end in the same moment.
        biased;
        answer = answer => answer,
        ended = &mut connection => {
            ended?;
            bail!("the connection ended before the answer")
        }
    }
}

fn config(insecure: bool) -> anyhow::Result<ClientConfig> {
    if insecure {
        let provider = CryptoProvider::get_default().cloned();
        let provider =
            provider.unwrap_or_else(|| Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider()));
        return Ok(ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything(provider)))
            .with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    ensure!(!roots.is_empty(), "this machine has no root certificates; --insecure does without");
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// Any certificate will do: the user said so. Signatures are still checked.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
