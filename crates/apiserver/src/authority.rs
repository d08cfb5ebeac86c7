//! Our certificate authority: it signs the serving certificate and the administrator's.
//!
//! Only the authority itself is kept; the other certificates are made anew at each start, so they are always young
//! and always carry the names asked for.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::Error;
use crate::tokens::Signer;

const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;
/// A new authority is made when the old one would end within this many days.
const RENEW_DAYS: i64 = 90;
/// The administrator's name and group in its certificate.
const ADMIN: (&str, &str) = ("kubernetes-admin", "system:masters");
/// Names under which pods and people know the API server.
const NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
const ADDRESSES: &[&str] = &["127.0.0.1", "::1", "10.96.0.1"];

/// Keys and certificates of one installation.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    serving: Leaf,
    admin: Leaf,
    signer: Signer,
}

struct Leaf {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    /// Reads the authority in `directory`, or makes one, and signs a serving certificate for this machine and
    /// `extra_sans` (names or addresses). Key files have mode 0600.
    ///
    /// # Errors
    /// The file that cannot be read or written, or is no certificate.
    pub fn load_or_create(
        directory: &Path,
        extra_sans: &[String],
        now: jiff::Timestamp,
    ) -> Result<Self, Error> {
        let (certificate_file, key_file) = (directory.join("ca.crt"), directory.join("ca.key"));
        std::fs::create_dir_all(directory).map_err(|source| Error::File {
            file: directory.into(),
            operation: "create",
            source,
        })?;
        let found = match (read(&certificate_file)?, read(&key_file)?) {
            (Some(certificate), Some(key)) if !ends_soon(&certificate, now) => Some((certificate, key)),
            _ => None,
        };
        let (certificate, key) = match found {
            Some(found) => found,
            None => {
                let made = make_ca(&certificate_file, now)?;
                // The key first: a certificate without its key would be replaced, a key without one too.
                write_private(&key_file, &made.1)?;
                write_private(&certificate_file, &made.0)?;
                made
            }
        };
        let failed = |operation, file: &PathBuf| {
            let file = file.clone();
            move |source| Error::Certificate { file, operation, source }
        };
        let key = KeyPair::from_pem(&key).map_err(failed("read the key in", &key_file))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(failed("read the certificate in", &certificate_file))?;

        let mut names: Vec<String> = NAMES.iter().chain(ADDRESSES).map(|name| (*name).to_owned()).collect();
        names.extend(
            std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()),
        );
        names.extend(extra_sans.iter().cloned());
        let serving = leaf(&issuer, ("dormouse-apiserver", None), &names, now)
            .map_err(failed("sign a serving certificate with", &key_file))?;
        let admin = leaf(&issuer, (ADMIN.0, Some(ADMIN.1)), &[], now)
            .map_err(failed("sign a client certificate with", &key_file))?;
        let signer_file = directory.join("sa.key");
        let signer = match read(&signer_file)? {
            Some(text) => KeyPair::from_pem(&text).map_err(failed("read the key in", &signer_file))?,
            None => {
                let made = KeyPair::generate().map_err(failed("make a key for", &signer_file))?;
                write_private(&signer_file, &made.serialize_pem())?;
                made
            }
        };
        Ok(Self { certificate, issuer, serving, admin, signer: Signer::new(signer) })
    }

    /// The authority's certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// What signs the tokens of service accounts; its key is kept.
    pub fn signer(&self) -> Signer {
        self.signer.clone()
    }

    /// How the TLS listener is set up: client certificates of ours are verified, none is required.
    ///
    /// # Errors
    /// When the TLS library refuses the keys.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pem_to_der(&self.certificate)).map_err(Error::Tls)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(Error::Verifier)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.serving.key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.serving.certificate.clone(), pem_to_der(&self.certificate)], key)
            .map_err(Error::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// A client certificate and key in PEM for `user` in `group`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn client_certificate(
        &self,
        user: &str,
        group: Option<&str>,
        now: jiff::Timestamp,
    ) -> Result<(String, String), Error> {
        let leaf = leaf(&self.issuer, (user, group), &[], now).map_err(|source| Error::Certificate {
            file: PathBuf::from("ca.key"),
            operation: "sign a client certificate with",
            source,
        })?;
        Ok((leaf.pem, leaf.key.serialize_pem()))
    }

    /// A kubeconfig for the administrator of the server at `url`, such as `https://127.0.0.1:6443`.
    pub fn kubeconfig(&self, url: &str) -> String {
        let authority = STANDARD.encode(&self.certificate);
        let certificate = STANDARD.encode(&self.admin.pem);
        let key = STANDARD.encode(self.admin.key.serialize_pem());
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: \"dormouse\"\npreferences: {{}}\n\
             clusters:\n- name: \"dormouse\"\n  cluster:\n    server: \"{url}\"\n    certificate-authority-data: {authority}\n\
             users:\n- name: \"{user}\"\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n\
             contexts:\n- name: \"dormouse\"\n  context:\n    cluster: \"dormouse\"\n    user: \"{user}\"\n    namespace: \"default\"\n",
            user = ADMIN.0,
        )
    }

    /// Writes the kubeconfig to `file` with mode 0600, whole or not at all.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn write_kubeconfig(&self, file: &Path, url: &str) -> Result<(), Error> {
        write_private(file, &self.kubeconfig(url))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Authority")
    }
}

fn read(file: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { file: file.into(), operation: "read", source }),
    }
}

/// Writes beside the file and renames, so that no reader sees half of it.
fn write_private(file: &Path, text: &str) -> Result<(), Error> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        out.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&beside, file)
    };
    written().map_err(|source| Error::File { file: file.into(), operation: "write", source })
}

fn ends_soon(pem: &str, now: jiff::Timestamp) -> bool {
    let der = pem_to_der(pem);
    // What cannot be read is reported when it is used, not silently replaced.
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
    certificate.validity().not_after.timestamp() < now.as_second() + RENEW_DAYS * 86_400
}

/// The first certificate of a PEM text; empty when there is none, which its reader refuses.
fn pem_to_der(pem: &str) -> CertificateDer<'static> {
    let body: String = pem
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN CERTIFICATE"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .map(str::trim)
        .collect();
    CertificateDer::from(STANDARD.decode(body).unwrap_or_default())
}

/// From yesterday, because clocks differ, for some years.
fn set_validity(params: &mut CertificateParams, now: jiff::Timestamp, years: i16) {
    let today = now.to_zoned(TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        let (month, day) = (u8::try_from(date.month()).unwrap_or(1), u8::try_from(date.day()).unwrap_or(1));
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    params.not_before = day(today.yesterday().unwrap_or(today));
    params.not_after = day(today.checked_add(jiff::Span::new().years(years)).unwrap_or(today));
}

fn make_ca(file: &Path, now: jiff::Timestamp) -> Result<(String, String), Error> {
    let made = || -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "dormouse");
        set_validity(&mut params, now, CA_YEARS);
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    made().map_err(|source| Error::Certificate {
        file: file.into(),
        operation: "make a certificate for",
        source,
    })
}

/// A certificate for a server when there are names, otherwise for a client.
fn leaf(
    issuer: &Issuer<'static, KeyPair>,
    (user, group): (&str, Option<&str>),
    names: &[String],
    now: jiff::Timestamp,
) -> Result<Leaf, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    let purpose = if names.is_empty() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    };
    params.extended_key_usages = vec![purpose];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, LEAF_YEARS);
    debug_assert!(!key.der_bytes().is_empty());
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Leaf { certificate: certificate.der().clone(), pem: certificate.pem(), key })
}
