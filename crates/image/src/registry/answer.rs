//! Answers and the protocol's error codes.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};

use crate::client::Body;
use crate::error::Error;

pub(super) type Answer = Response<Body>;

/// The codes of the distribution specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    Denied,
    Unsupported,
    TooManyRequests,
    RangeInvalid,
    PaginationNumberInvalid,
    Unknown,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Problem {
    code: Code,
    status: StatusCode,
    pub(super) message: String,
    headers: Vec<(&'static str, String)>,
}

impl Code {
    fn parts(self) -> (&'static str, StatusCode) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", StatusCode::NOT_FOUND),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", StatusCode::BAD_REQUEST),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", StatusCode::NOT_FOUND),
            Self::DigestInvalid => ("DIGEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", StatusCode::NOT_FOUND),
            Self::ManifestInvalid => ("MANIFEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", StatusCode::NOT_FOUND),
            Self::NameInvalid => ("NAME_INVALID", StatusCode::BAD_REQUEST),
            Self::NameUnknown => ("NAME_UNKNOWN", StatusCode::NOT_FOUND),
            Self::SizeInvalid => ("SIZE_INVALID", StatusCode::BAD_REQUEST),
            Self::TagInvalid => ("TAG_INVALID", StatusCode::BAD_REQUEST),
            Self::Denied => ("DENIED", StatusCode::FORBIDDEN),
            Self::Unsupported => ("UNSUPPORTED", StatusCode::METHOD_NOT_ALLOWED),
            Self::TooManyRequests => ("TOOMANYREQUESTS", StatusCode::TOO_MANY_REQUESTS),
            Self::RangeInvalid => ("RANGE_INVALID", StatusCode::RANGE_NOT_SATISFIABLE),
            Self::PaginationNumberInvalid => ("PAGINATION_NUMBER_INVALID", StatusCode::BAD_REQUEST),
            Self::Unknown => ("UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl Problem {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, status: code.parts().1, message: message.into(), headers: Vec::new() }
    }

    /// With another status than the code's usual one.
    pub(super) fn with(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn answer(self) -> Answer {
        let body = serde_json::json!({
            "errors": [{ "code": self.code.parts().0, "message": self.message, "detail": null }]
        });
        let mut answer = json(self.status, "application/json", body.to_string().into_bytes());
        for (name, value) in self.headers {
            if let Ok(value) = value.parse() {
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let message = dormouse_base::chain(&error);
        let (code, status) = match error.inner() {
            Error::DigestMismatch { .. } | Error::Digest { .. } => (Code::DigestInvalid, None),
            Error::SizeMismatch { .. } => (Code::SizeInvalid, None),
            Error::TooLarge { .. } => (Code::SizeInvalid, Some(StatusCode::PAYLOAD_TOO_LARGE)),
            Error::Manifest { .. } => (Code::ManifestInvalid, None),
            Error::Missing { .. } | Error::Damaged { .. } => (Code::BlobUnknown, None),
            Error::DiskFull { .. } => (Code::Unknown, Some(StatusCode::INSUFFICIENT_STORAGE)),
            _ => (Code::Unknown, None),
        };
        let problem = Self::new(code, message);
        match status {
            Some(status) => problem.with(status),
            None => problem,
        }
    }
}

/// An answer with a body.
pub(super) fn json(status: StatusCode, media_type: &str, body: Vec<u8>) -> Answer {
    with_body(status, media_type, Bytes::from(body))
}

/// An answer with a body of any type.
pub(super) fn with_body(status: StatusCode, media_type: &str, body: Bytes) -> Answer {
    let length = body.len();
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    if let Ok(value) = media_type.parse() {
        answer.headers_mut().insert(CONTENT_TYPE, value);
    }
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    answer
}

/// An answer without a body and with these headers.
pub(super) fn empty(status: StatusCode, headers: &[(&'static str, String)]) -> Answer {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        answer.headers_mut().insert(CONTENT_LENGTH, 0.into());
    }
    set(answer, headers)
}

/// Adds headers.
pub(super) fn set(mut answer: Answer, headers: &[(&'static str, String)]) -> Answer {
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            answer.headers_mut().insert(*name, value);
        }
    }
    answer
}

/// A query parameter, decoded.
pub(super) fn query(uri: &http::Uri, name: &str) -> Option<String> {
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| {
            let value = value.replace('+', " ");
            percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned()
        })
    })
}
