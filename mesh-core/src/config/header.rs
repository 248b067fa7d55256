//! Header mutation: what is added to, replaced in and removed from requests and responses (`HeaderValueOption`).

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{ConfigError, HeaderKey};
use crate::RequestHead;

/// Changes to one header map, in Envoy's order: removals first, then additions in list order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMutations {
    remove: Vec<HeaderName>,
    set: Vec<HeaderSet>,
}

/// Changes with their values made; see [`HeaderMutations::render`].
#[derive(Debug, Default)]
pub struct RenderedMutations {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderAppend, HeaderValue)>,
}

/// One header that is added or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeaderSet {
    name: HeaderName,
    value: HeaderTemplate,
    how: HeaderAppend,
    keep_empty: bool,
}

/// What happens when the header is already there (`HeaderValueOption.HeaderAppendAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderAppend {
    /// Another value is added.
    #[default]
    Append,
    /// It is left as it is.
    AddIfAbsent,
    /// It is replaced, or added.
    Overwrite,
    /// It is replaced; nothing happens when it is absent.
    OverwriteIfPresent,
}

/// A header value that may quote the request: literal text, `%REQ(name?other):length%`, `%ROUTE_NAME%`,
/// `%UPSTREAM_CLUSTER%` and `%%`, a subset of Envoy's substitution format.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderTemplate {
    source: Box<str>,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Request { name: HeaderKey, or: Option<HeaderKey>, length: Option<usize> },
    RouteName,
    Cluster,
}

/// What a [`HeaderTemplate`] may quote.
#[derive(Clone, Copy, Debug)]
pub struct TemplateScope<'a> {
    /// The request as it stood before any mutation.
    pub request: RequestHead<'a>,
    /// Name of the route.
    pub route: &'a str,
    /// Name of the cluster that was chosen.
    pub cluster: &'a str,
}

// === impl HeaderMutations ===

impl HeaderMutations {
    /// The most changes that one list may hold, as in Envoy.
    pub const LIMIT: usize = 1000;

    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes every value of `name`.
    ///
    /// # Errors
    ///
    /// Refuses `host`, which routing depends on.
    pub fn remove(mut self, name: HeaderName) -> Result<Self, ConfigError> {
        self.remove.push(mutable(name)?);
        self.bounded()
    }

    /// Adds or replaces `name`; an empty value, once formatted, adds nothing.
    ///
    /// # Errors
    ///
    /// Refuses `host`, which the host rewrite sets.
    pub fn set(self, name: HeaderName, value: HeaderTemplate, how: HeaderAppend) -> Result<Self, ConfigError> {
        self.push(HeaderSet { name, value, how, keep_empty: false })
    }

    /// As [`set`](Self::set), and an empty value is sent as such (`keep_empty_value`).
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn set_even_empty(
        self,
        name: HeaderName,
        value: HeaderTemplate,
        how: HeaderAppend,
    ) -> Result<Self, ConfigError> {
        self.push(HeaderSet { name, value, how, keep_empty: true })
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// These changes with their values made from `scope`, ready to be applied.
    ///
    /// Rendering comes first because values quote the request as it stood, and because a response is changed when its
    /// request is gone.
    pub fn render(&self, scope: &TemplateScope<'_>) -> RenderedMutations {
        let set = self.set.iter().filter_map(|set| Some((set.name.clone(), set.how, set.render(scope)?)));
        RenderedMutations { remove: self.remove.clone(), set: set.collect() }
    }

    fn push(mut self, mut set: HeaderSet) -> Result<Self, ConfigError> {
        set.name = mutable(set.name)?;
        self.set.push(set);
        self.bounded()
    }

    fn bounded(self) -> Result<Self, ConfigError> {
        let count = self.remove.len().max(self.set.len());
        if count > Self::LIMIT {
            return Err(ConfigError::new("header mutations", count, "at most 1000 in one list"));
        }
        Ok(self)
    }
}

fn mutable(name: HeaderName) -> Result<HeaderName, ConfigError> {
    if name == http::header::HOST {
        return Err(ConfigError::new("header", "host", "use a host rewrite"));
    }
    Ok(name)
}

// === impl RenderedMutations ===

impl RenderedMutations {
    /// Changes `headers`.
    pub fn apply(self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, how, value) in self.set {
            how.apply(headers, name, value);
        }
    }
}

// === impl HeaderAppend ===

impl HeaderAppend {
    fn apply(self, headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
        let present = headers.contains_key(&name);
        match self {
            Self::Append => {
                headers.append(name, value);
            }
            Self::AddIfAbsent if present => {}
            Self::OverwriteIfPresent if !present => {}
            Self::AddIfAbsent | Self::Overwrite | Self::OverwriteIfPresent => {
                headers.insert(name, value);
            }
        }
    }
}

// === impl HeaderSet ===

impl HeaderSet {
    fn render(&self, scope: &TemplateScope<'_>) -> Option<HeaderValue> {
        self.value.render(scope).filter(|value| self.keep_empty || !value.is_empty())
    }
}

// === impl HeaderTemplate ===

impl HeaderTemplate {
    /// Reads a value.
    ///
    /// # Errors
    ///
    /// Refuses an unpaired `%`, a command outside the subset, and text that no header may hold.
    pub fn new(source: &str) -> Result<Self, ConfigError> {
        let refuse = |remedy: &'static str| ConfigError::new("header value", source, remedy);
        if HeaderValue::from_str(source).is_err() {
            return Err(refuse("use visible characters"));
        }
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some((literal, tail)) = rest.split_once('%') {
            push_literal(&mut parts, literal);
            let (command, tail) =
                tail.split_once('%').ok_or_else(|| refuse("close the % that opens a command, or write %% for one"))?;
            if command.is_empty() {
                push_literal(&mut parts, "%");
            } else {
                parts.push(
                    Part::parse(command)
                        .ok_or_else(|| refuse("use %REQ(name)%, %ROUTE_NAME%, %UPSTREAM_CLUSTER% or %%"))?,
                );
            }
            rest = tail;
        }
        push_literal(&mut parts, rest);
        Ok(Self { source: source.into(), parts })
    }

    fn render(&self, scope: &TemplateScope<'_>) -> Option<HeaderValue> {
        if let [Part::Literal(text)] = &self.parts[..] {
            return HeaderValue::from_str(text).ok();
        }
        let mut text = String::new();
        for part in &self.parts {
            part.render(scope, &mut text);
        }
        HeaderValue::from_str(&text).ok()
    }
}

impl fmt::Debug for HeaderTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

fn push_literal(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Literal(last)) => *last = format!("{last}{text}").into(),
        _ => parts.push(Part::Literal(text.into())),
    }
}

// === impl Part ===

impl Part {
    fn parse(command: &str) -> Option<Self> {
        match command {
            "ROUTE_NAME" => return Some(Self::RouteName),
            "UPSTREAM_CLUSTER" => return Some(Self::Cluster),
            _ => {}
        }
        let arguments = command.strip_prefix("REQ(").or_else(|| command.strip_prefix("REQUEST_HEADER("))?;
        let (names, length) = arguments.split_once(')')?;
        let length = match length.strip_prefix(':') {
            Some(digits) => Some(digits.parse().ok()?),
            None if length.is_empty() => None,
            None => return None,
        };
        let (name, or) = match names.split_once('?') {
            Some((name, or)) => (name, Some(HeaderKey::parse(&or.to_ascii_lowercase()).ok()?)),
            None => (names, None),
        };
        Some(Self::Request { name: HeaderKey::parse(&name.to_ascii_lowercase()).ok()?, or, length })
    }

    fn render(&self, scope: &TemplateScope<'_>, text: &mut String) {
        match self {
            Self::Literal(literal) => text.push_str(literal),
            Self::RouteName => text.push_str(scope.route),
            Self::Cluster => text.push_str(scope.cluster),
            Self::Request { name, or, length } => {
                let value = name.value(&scope.request).or_else(|| or.as_ref()?.value(&scope.request));
                let value = value.as_deref().unwrap_or_default();
                text.extend(value.chars().take(length.unwrap_or(usize::MAX)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutate(mutations: &HeaderMutations, request: &http::Request<()>) -> HeaderMap {
        let mut headers = request.headers().clone();
        let scope = TemplateScope { request: RequestHead::of(request), route: "r", cluster: "c" };
        mutations.render(&scope).apply(&mut headers);
        headers
    }

    fn template(source: &str) -> HeaderTemplate {
        HeaderTemplate::new(source).expect("a legal template")
    }

    #[test]
    fn removals_come_before_additions() {
        let name = HeaderName::from_static("x-a");
        let mutations = HeaderMutations::new()
            .set(name.clone(), template("new"), HeaderAppend::Append)
            .and_then(|m| m.remove(name.clone()))
            .expect("legal");
        let request = http::Request::builder().header("x-a", "old").body(()).expect("legal");
        assert_eq!(mutate(&mutations, &request).get_all(name).iter().collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn values_quote_the_request_as_it_stood() {
        let mutations = HeaderMutations::new()
            .set(
                HeaderName::from_static("x-b"),
                template("100%% %REQ(x-a?:PATH):4% %ROUTE_NAME%"),
                HeaderAppend::Overwrite,
            )
            .expect("legal");
        let request = http::Request::builder().uri("/path?q").body(()).expect("legal");
        assert_eq!(mutate(&mutations, &request)["x-b"], "100% /pat r");
    }

    #[test]
    fn each_way_to_append_does_what_it_says() {
        let cases = [
            (HeaderAppend::Append, vec!["old", "new"], vec!["new"]),
            (HeaderAppend::AddIfAbsent, vec!["old"], vec!["new"]),
            (HeaderAppend::Overwrite, vec!["new"], vec!["new"]),
            (HeaderAppend::OverwriteIfPresent, vec!["new"], vec![]),
        ];
        for (how, when_present, when_absent) in cases {
            let name = HeaderName::from_static("x-a");
            let mutations = HeaderMutations::new().set(name.clone(), template("new"), how).expect("legal");
            let with = http::Request::builder().header("x-a", "old").body(()).expect("legal");
            let without = http::Request::new(());
            assert_eq!(mutate(&mutations, &with).get_all(&name).iter().collect::<Vec<_>>(), when_present, "{how:?}");
            assert_eq!(mutate(&mutations, &without).get_all(&name).iter().collect::<Vec<_>>(), when_absent, "{how:?}");
        }
    }

    #[test]
    fn empty_value_adds_nothing_unless_kept() {
        let name = HeaderName::from_static("x-a");
        let request = http::Request::new(());
        let skipped = HeaderMutations::new().set(name.clone(), template("%REQ(x-none)%"), HeaderAppend::Append);
        assert!(mutate(&skipped.expect("legal"), &request).is_empty());
        let kept = HeaderMutations::new().set_even_empty(name, template("%REQ(x-none)%"), HeaderAppend::Append);
        assert_eq!(mutate(&kept.expect("legal"), &request)["x-a"], "");
    }

    #[test]
    fn unknown_command_and_open_percent_are_refused() {
        for bad in ["%", "a%b", "%DURATION%", "%REQ(%", "%REQ(a)x%"] {
            assert!(HeaderTemplate::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_cannot_be_mutated() {
        assert!(HeaderMutations::new().remove(http::header::HOST).is_err());
        assert!(HeaderMutations::new().set(http::header::HOST, template("x"), HeaderAppend::Append).is_err());
    }
}
