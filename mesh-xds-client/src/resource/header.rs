//! Header mutations (`HeaderValueOption` and the lists of names to remove).

use envoy_types::pb::envoy::config::core::v3 as pb;
use http::HeaderValue;
use mesh_core::config::{ConfigError, HeaderAppend, HeaderMutations, HeaderTemplate};

use super::{
    common::{header_name, told_as},
    notes::Notes,
};

/// The two fields that hold the mutations of one message, by the names that they have there.
pub(super) const REQUEST: Fields = Fields { add: "request_headers_to_add", remove: "request_headers_to_remove" };
/// As [`REQUEST`], for responses.
pub(super) const RESPONSE: Fields = Fields { add: "response_headers_to_add", remove: "response_headers_to_remove" };

/// Names of the fields that are read.
#[derive(Clone, Copy)]
pub(super) struct Fields {
    add: &'static str,
    remove: &'static str,
}

/// What is said of one header to add.
struct Addition {
    name: http::HeaderName,
    value: HeaderTemplate,
    how: HeaderAppend,
    keep_empty: bool,
}

/// The mutations of one message.
pub(super) fn mutations(
    fields: Fields,
    add: Vec<pb::HeaderValueOption>,
    remove: &[String],
    notes: &mut Notes,
) -> Result<HeaderMutations, ConfigError> {
    let mut mutations = HeaderMutations::new();
    for (index, name) in remove.iter().enumerate() {
        let place = |error: &ConfigError| told_as(format!("{}[{index}]", fields.remove), error);
        if let Some(name) = sendable("", name).map_err(|error| place(&error))? {
            mutations = mutations.remove(name).map_err(|error| place(&error))?;
        }
    }
    for (index, addition) in notes.each(fields.add, add, addition)?.into_iter().enumerate() {
        let Some(Addition { name, value, how, keep_empty }) = addition else {
            continue;
        };
        let set = if keep_empty { HeaderMutations::set_even_empty } else { HeaderMutations::set };
        mutations = set(mutations, name, value, how)
            .map_err(|error| told_as(format!("{}[{index}].header.key", fields.add), &error))?;
    }
    Ok(mutations)
}

/// The name of a header; none when HTTP does not allow it, so that no message has such a header.
///
/// Envoy refuses some of those names, and takes the others, as Istio takes them from its users: all routes of a port would be
/// lost to one of them.
fn sendable(field: &'static str, name: &str) -> Result<Option<http::HeaderName>, ConfigError> {
    let is_refused = name.is_empty() || name.starts_with(':') || name.contains(['\0', '\r', '\n']);
    match header_name(field, name) {
        Err(_) if !is_refused => Ok(None),
        name => name.map(Some),
    }
}

/// One addition; none when nobody can send it, or its value asks for what only a proxy knows.
fn addition(message: pb::HeaderValueOption, notes: &mut Notes) -> Result<Option<Addition>, ConfigError> {
    let how = append(&message)?;
    let Some(header) = message.header else {
        return Err(ConfigError::new("header", "", "set this field"));
    };
    let Some(name) = sendable("header.key", &header.key)? else {
        notes.warn("header.key", "HTTP does not allow this name; the header is left out");
        return Ok(None);
    };
    let text = match String::from_utf8(header.raw_value) {
        Ok(raw) if raw.is_empty() => header.value,
        Ok(raw) => raw,
        Err(_) => return Err(ConfigError::new("header.raw_value", "", "use UTF-8")),
    };
    match HeaderTemplate::new(&text) {
        Ok(value) => Ok(Some(Addition { name, value, how, keep_empty: message.keep_empty_value })),
        Err(_) if asks_for_unknown(&text) => {
            notes.warn("header.value", "this command is not known here; the header is left out");
            Ok(None)
        }
        Err(error) => Err(told_as("header.value", &error)),
    }
}

/// Whether a value that was refused is well formed, so that it is its commands that are not known.
fn asks_for_unknown(text: &str) -> bool {
    HeaderValue::from_str(text).is_ok() && text.matches('%').count().is_multiple_of(2)
}

#[expect(deprecated, reason = "`append` came before `append_action` and is still sent")]
fn append(message: &pb::HeaderValueOption) -> Result<HeaderAppend, ConfigError> {
    use pb::header_value_option::HeaderAppendAction as Wire;
    let action = Wire::try_from(message.append_action)
        .map_err(|_| ConfigError::new("append_action", message.append_action, "use an action between 0 and 3"))?;
    match (action, message.append) {
        (Wire::AppendIfExistsOrAdd, Some(append)) if !append.value => Ok(HeaderAppend::Overwrite),
        (Wire::AppendIfExistsOrAdd, _) => Ok(HeaderAppend::Append),
        (_, Some(append)) => {
            Err(ConfigError::new("append", append.value, "set either `append` or `append_action`, not both"))
        }
        (Wire::AddIfAbsent, None) => Ok(HeaderAppend::AddIfAbsent),
        (Wire::OverwriteIfExistsOrAdd, None) => Ok(HeaderAppend::Overwrite),
        (Wire::OverwriteIfExists, None) => Ok(HeaderAppend::OverwriteIfPresent),
    }
}
