//! What is wrong with a resource, and how a refusal puts it in words for the operator of the control plane.

use std::fmt;

use envoy_types::pb::google::rpc;

/// The most bytes of text a refusal carries.
///
/// Control planes log the text and show it in their status, and it travels in one HTTP/2 message: a response with ten
/// thousand bad clusters must not come back as megabytes.
pub(super) const MAX_TEXT: usize = 4096;

/// `google.rpc.Code.INVALID_ARGUMENT`, which gRPC clients send in every refusal.
const INVALID_ARGUMENT: i32 = 3;

/// One resource of a response that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceError {
    /// The resource's name, or `None` when it could not be read far enough to know.
    pub name: Option<String>,
    /// The path of the offending field inside the resource, when one is to blame.
    pub field: Option<String>,
    /// What is wrong, in words for the operator of the control plane.
    pub message: String,
}

/// The `error_detail` of a refusal: every error in one text of bounded length.
pub(super) fn error_detail(errors: &[ResourceError]) -> rpc::Status {
    rpc::Status { code: INVALID_ARGUMENT, message: bounded_text(errors), details: Vec::new() }
}

/// Room is kept for the count of what is left out, so that a reader knows there is more.
fn bounded_text(errors: &[ResourceError]) -> String {
    let mut text = String::new();
    for (told, error) in errors.iter().enumerate() {
        let left = errors.len() - told;
        let rest = format!("; and {left} more");
        let mut line = if told == 0 { error.to_string() } else { format!("; {error}") };
        let room = MAX_TEXT - text.len() - rest.len();
        if told == 0 {
            truncate(&mut line, room);
        }
        if line.len() > room {
            text.push_str(&rest);
            break;
        }
        text.push_str(&line);
    }
    text
}

/// Shortens `text` to at most `limit` bytes, between two characters.
fn truncate(text: &mut String, limit: usize) {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
}

// === impl ResourceError ===

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "resource {name:?}: ")?,
            None => f.write_str("resource without a readable name: ")?,
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ResourceError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, message: impl Into<String>) -> ResourceError {
        ResourceError { name: Some(name.to_owned()), field: Some("lb_policy".to_owned()), message: message.into() }
    }

    #[test]
    fn text_names_resource_and_field_of_each_error() {
        let nameless = ResourceError { name: None, field: None, message: "not protobuf".to_owned() };
        let detail = error_detail(&[error("a", "unknown value 9"), nameless]);
        assert_eq!(
            detail.message,
            r#"resource "a": lb_policy: unknown value 9; resource without a readable name: not protobuf"#
        );
        assert_eq!(detail.code, 3);
    }

    #[test]
    fn text_is_bounded_and_counts_what_is_left_out() {
        let errors = vec![error("cluster", "x".repeat(100)); 10_000];
        let text = bounded_text(&errors);
        assert!(text.len() <= MAX_TEXT);
        let told = text.matches("resource").count();
        assert!(text.ends_with(&format!("; and {} more", 10_000 - told)), "{text}");
    }

    #[test]
    fn one_long_error_is_cut_between_characters() {
        let text = bounded_text(&[error("a", "ä".repeat(5_000)), error("b", "bad")]);
        assert!(text.len() <= MAX_TEXT);
        assert!(text.ends_with("ä; and 1 more"), "{text}");
    }
}
