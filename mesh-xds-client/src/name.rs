//! Names of resources: the older ones, which are opaque, and those of `xdstp:`, which say who has the resource (gRFC
//! A47).
//!
//! A name of `xdstp:` can be written in many ways: context parameters in any order, letters percent-encoded or not.
//! Everything that is kept or asked for by name goes by the [canonical](canonical) one, as xRFC TP1 has it:
//! parameters sorted by key, the last of several values kept, and percent-encoding only where it is needed, in
//! capitals.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;

use crate::ResourceKind;

/// A name such as `xdstp://authority/envoy.config.listener.v3.Listener/id?key=value`. Displayed in its canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct XdstpName {
    /// Who has the resource. May be empty.
    pub(crate) authority: String,
    /// The message's full name.
    message: String,
    id: String,
    context: BTreeMap<String, String>,
}

/// In the messages of all kinds of resources the name is field 1, and the rest is skipped.
#[derive(Clone, PartialEq, Message)]
struct NameOnly {
    #[prost(string, tag = "1")]
    name: String,
}

/// Why a name cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NameError {
    /// It is not `xdstp://authority/type/id`.
    Form,
    /// It is of another type than what is asked for by it.
    Type { expected: &'static str },
    /// It has a fragment.
    Directive,
    /// It stands for many resources.
    Collection,
}

/// What names of `xdstp:` begin with.
pub(crate) const SCHEME: &str = "xdstp:";

/// What is left as it is everywhere in a URI (RFC 3986, `unreserved`).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a context parameter may hold as it is: `pchar`, slash and question mark, without what separates parameters.
const PARAMETER: &AsciiSet = &UNRESERVED
    .remove(b'!')
    .remove(b'$')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b':')
    .remove(b'@')
    .remove(b'/')
    .remove(b'?');

/// What the path may hold as it is: `pchar`, and the slash.
const PATH: &AsciiSet = &PARAMETER.add(b'?').remove(b'&').remove(b'=');

/// Whether this is a name that says who has the resource.
pub(crate) fn is_xdstp(name: &str) -> bool {
    name.starts_with(SCHEME)
}

/// The name in the bytes of a resource, even of one that cannot be read to its end.
pub(crate) fn name_of(bytes: &[u8]) -> Option<Arc<str>> {
    let mut found = NameOnly::default();
    // What was read before an error stays, and the name comes first wherever fields are written in order.
    let _ = found.merge(bytes);
    (!found.name.is_empty()).then(|| found.name.into())
}

/// Whether this may be the name of one resource. `*` is none: servers take it for a wish for everything.
pub(crate) fn is_of_one(name: &str) -> bool {
    !matches!(name, "" | "*")
}

/// The one way to write this name. What is no name of `xdstp:` is left as it is.
pub(crate) fn canonical(name: &str) -> Cow<'_, str> {
    if !is_xdstp(name) {
        return Cow::Borrowed(name);
    }
    XdstpName::parse(name).map_or(Cow::Borrowed(name), |parsed| Cow::Owned(parsed.to_string()))
}

/// As [`canonical`], of a name that is kept.
pub(crate) fn canonical_arc(name: &Arc<str>) -> Arc<str> {
    match canonical(name) {
        Cow::Borrowed(_) => name.clone(),
        Cow::Owned(canonical) => canonical.into(),
    }
}

/// The template with its `%s` replaced, percent-encoded where it is of `xdstp:`.
pub(crate) fn fill(template: &str, name: &str) -> String {
    if is_xdstp(template) {
        template.replace("%s", &utf8_percent_encode(name, PATH).to_string())
    } else {
        template.replace("%s", name)
    }
}

// === impl XdstpName ===

impl XdstpName {
    /// Reads a name of any type.
    pub(crate) fn parse(name: &str) -> Result<Self, NameError> {
        let rest = name.strip_prefix("xdstp://").ok_or(NameError::Form)?;
        if rest.contains('#') {
            return Err(NameError::Directive);
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = path.split_once('/').ok_or(NameError::Form)?;
        let (message, id) = path.split_once('/').ok_or(NameError::Form)?;
        if message.is_empty() || id.is_empty() {
            return Err(NameError::Form);
        }
        if id == "*" || id.ends_with("/*") {
            return Err(NameError::Collection);
        }
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        let context = parameters.map(|parameter| {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (normal(key, PARAMETER), normal(value, PARAMETER))
        });
        Ok(Self {
            authority: authority.to_owned(),
            message: message.to_owned(),
            id: normal(id, PATH),
            context: context.collect(),
        })
    }

    /// Reads a name by which a resource of this kind is asked for.
    pub(crate) fn of_kind(kind: ResourceKind, name: &str) -> Result<Self, NameError> {
        let parsed = Self::parse(name)?;
        let expected = kind.message_name();
        if parsed.message == expected { Ok(parsed) } else { Err(NameError::Type { expected }) }
    }
}

impl fmt::Display for XdstpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authority, message, id, context } = self;
        write!(f, "xdstp://{authority}/{message}/{id}")?;
        for (place, (key, value)) in context.iter().enumerate() {
            let separator = if place == 0 { '?' } else { '&' };
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

/// Percent-encodes what has to be and decodes what need not be (RFC 3986, 6.2.2). What is reserved stays as it was
/// written, since encoded it means something else.
fn normal(text: &str, escaped: &'static AsciiSet) -> String {
    let mut written = String::with_capacity(text.len());
    let mut parts = text.split('%');
    written.extend(parts.next().map(|part| utf8_percent_encode(part, escaped)).into_iter().flatten());
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some((code, byte)) = code.and_then(|code| Some((code, u8::from_str_radix(code, 16).ok()?))) else {
            written.push_str("%25");
            written.extend(utf8_percent_encode(part, escaped));
            continue;
        };
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            written.push(char::from(byte));
        } else {
            written.push('%');
            written.push_str(&code.to_ascii_uppercase());
        }
        written.extend(utf8_percent_encode(&part[2..], escaped));
    }
    written
}

// === impl NameError ===

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("the name is not `xdstp://authority/type/id`"),
            Self::Type { expected } => write!(f, "the name is of another type than `{expected}`"),
            Self::Directive => f.write_str("the name has a directive (`#…`), which is not supported"),
            Self::Collection => f.write_str("the name is that of a collection, which is not supported"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LISTENER: &str = "envoy.config.listener.v3.Listener";

    #[test]
    fn one_name_written_in_many_ways_has_one_canonical_form() {
        let expected = format!("xdstp://plane.test/{LISTENER}/a/b%2Fc~?env=x%26y&zone=1");
        for query in ["env=x%26y&zone=1", "zone=1&env=x%26y", "zone=2&env=x%26y&zone=%31", "&zone=1&&%65nv=x%26y"] {
            for id in ["a/b%2Fc~", "a/b%2fc%7E", "%61/b%2fc~"] {
                let name = format!("xdstp://plane.test/{LISTENER}/{id}?{query}");
                assert_eq!(canonical(&name), expected, "{name}");
            }
        }
    }

    #[test]
    fn what_is_escaped_because_it_separates_stays_so() {
        for name in ["a%2Fb", "a%3Fb", "a%23b", "100%25"] {
            let name = format!("xdstp://p/{LISTENER}/{name}");
            assert_eq!(canonical(&name), name);
        }
    }

    #[test]
    fn what_may_not_stand_as_it_is_is_escaped() {
        let name = format!("xdstp://p/{LISTENER}/ä b%zz?k=v w=x");
        assert_eq!(canonical(&name), format!("xdstp://p/{LISTENER}/%C3%A4%20b%25zz?k=v%20w%3Dx"));
    }

    #[test]
    fn older_names_and_what_is_none_are_left_alone() {
        for name in
            ["", "reviews:9080", "outbound|80||b.a?z=1&a=1", "xdstp:", "xdstp://p", "xdstp://p/t", "xds://p/t/i"]
        {
            assert!(matches!(canonical(name), Cow::Borrowed(same) if same == name), "{name}");
        }
    }

    #[test]
    fn authority_may_be_empty_and_id_may_have_slashes() {
        let name = XdstpName::parse(&format!("xdstp:///{LISTENER}/a/b/c")).expect("valid");
        assert_eq!((name.authority.as_str(), name.id.as_str()), ("", "a/b/c"));
    }

    #[test]
    fn name_that_cannot_be_asked_for_says_why() {
        let expected = LISTENER;
        for (name, error) in [
            ("xdstp:plane/t/i".to_owned(), NameError::Form),
            ("xdstp://plane".to_owned(), NameError::Form),
            (format!("xdstp://plane/{LISTENER}"), NameError::Form),
            (format!("xdstp://plane/{LISTENER}/"), NameError::Form),
            ("xdstp://plane//i".to_owned(), NameError::Form),
            (format!("xdstp://plane/{LISTENER}/a#alt=b"), NameError::Directive),
            (format!("xdstp://plane/{LISTENER}/a/*"), NameError::Collection),
            ("xdstp://plane/envoy.config.cluster.v3.Cluster/a".to_owned(), NameError::Type { expected }),
        ] {
            assert_eq!(XdstpName::of_kind(ResourceKind::Listener, &name), Err(error), "{name}");
        }
    }

    proptest! {
        #[test]
        fn canonical_form_is_its_own_canonical_form(id in ".{1,20}", query in "[a-c=&%0-9 ?/]{0,20}") {
            let name = format!("xdstp://plane/{LISTENER}/{id}?{query}");
            let once = canonical(&name).into_owned();
            prop_assert_eq!(canonical(&once), once.as_str());
        }
    }
}
