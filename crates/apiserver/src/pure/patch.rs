//! The three patch types that change an object from what it is to what it becomes.

mod strategic;
#[cfg(test)]
mod tests;

use dormouse_api::kind::KindInfo;
use serde_json::Value;

use super::schema;
use super::status::Status;

/// More operations than this in one JSON patch are refused.
const OPERATIONS_MAX: usize = 10_000;

/// How a patch body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    /// A list of operations, RFC 6902.
    Json,
    /// A partial object, RFC 7386.
    Merge,
    /// A partial object whose lists merge by key; built-in kinds only.
    Strategic,
}

impl PatchKind {
    /// The patch type of a media type, parameters already removed.
    pub(crate) fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// The media types of patches that a kind accepts.
pub(crate) fn accepted(kind: &KindInfo) -> &'static [&'static str] {
    const ALL: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
        "application/strategic-merge-patch+json",
    ];
    if kind.custom { ALL.split_last().map_or(ALL, |(_, without_strategic)| without_strategic) } else { ALL }
}

/// What `current` becomes by the patch in `body`.
pub(crate) fn apply(
    kind: PatchKind,
    kind_info: &KindInfo,
    current: &Value,
    body: &[u8],
) -> Result<Value, Status> {
    if kind == PatchKind::Strategic && kind_info.custom {
        return Err(Status::unsupported_media_type(accepted(kind_info)));
    }
    let patch: Value = serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let result = match kind {
        PatchKind::Json => json(current, patch)?,
        PatchKind::Merge => {
            object_only(&patch)?;
            let mut result = current.clone();
            json_patch::merge(&mut result, &patch);
            result
        }
        PatchKind::Strategic => {
            object_only(&patch)?;
            strategic::merge(current, &patch, schema::of(kind_info)).map_err(|error| match error {
                strategic::Error::Malformed(message) => Status::bad_request(message),
                strategic::Error::Unmatched(message) => Status::unprocessable(message),
            })?
        }
    };
    if result.is_object() { Ok(result) } else { Err(Status::unprocessable("the patch leaves no object")) }
}

fn object_only(patch: &Value) -> Result<(), Status> {
    if patch.is_object() {
        Ok(())
    } else {
        Err(Status::bad_request("error decoding patch: it must be an object"))
    }
}

fn json(current: &Value, patch: Value) -> Result<Value, Status> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > OPERATIONS_MAX {
        return Err(Status::too_large_because(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    let operations: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut result = current.clone();
    json_patch::patch(&mut result, &operations).map_err(|error| {
        Status::unprocessable(format!(
            "the server rejected our request due to an error in our request: {error}"
        ))
    })?;
    Ok(result)
}
