//! What can go wrong while the server is set up; requests answer with Status objects instead.

use std::path::PathBuf;

use dormouse_base::class::{Action, Class, Origin};

/// A failure to set the API server up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The first objects could not be written.
    #[error("write the first objects")]
    Bootstrap(#[source] dormouse_store::Error),
    /// The first objects could not be written.
    #[error("the built-in object {object} was refused: {message}")]
    Refused {
        /// Kind and name.
        object: String,
        /// What the API answered.
        message: String,
    },
    /// A key or certificate file could not be read or written.
    #[error("{operation} {file}")]
    File {
        /// The file.
        file: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate could not be made or read.
    #[error("{operation} {file}")]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// TLS refused the keys.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// TLS refused the verifier of client certificates.
    #[error("set up the verification of client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

impl Error {
    /// Whose fault it is and what to do: without an API server nothing else can run.
    pub fn class(&self) -> Class {
        match self {
            Self::Bootstrap(_) | Self::File { .. } | Self::Certificate { .. } => {
                Class::new(Origin::Upstream, Action::Fatal)
            }
            Self::Refused { .. } | Self::Tls(_) | Self::Verifier(_) => {
                Class::new(Origin::Ourselves, Action::Fatal)
            }
        }
    }
}
