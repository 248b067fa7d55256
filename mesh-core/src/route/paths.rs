//! Which routes a path may take: a radix tree over what their paths start with, in ASCII lower case.
//!
//! Every matcher says how the paths that it takes must begin: an exact path and a prefix with themselves, a regular
//! expression with the literal text before its first operator. A path is walked down the tree once, and the routes on its
//! way are its candidates. Case is folded for all of them, since the test in full, which follows, minds it where
//! it counts; so routes of either kind share one tree.
//!
//! Nodes lie in one array, breadth first. That keeps the children of a node side by side, and building free of recursion,
//! whose depth a control plane could otherwise choose.

use std::{collections::VecDeque, sync::Arc};

use super::refusal::takes_every_path;
use crate::config::PathMatch;

/// The routes of one virtual host by path; they are known by their place in its list. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub(super) struct PathIndex {
    nodes: Arc<[Node]>,
    /// First byte of each node's label, apart from the nodes so that choosing among siblings reads bytes side by side.
    firsts: Arc<[u8]>,
    labels: Arc<[u8]>,
    routes: Arc<[u32]>,
}

#[derive(Debug)]
struct Node {
    /// What a path must go on with to get here, in `labels`.
    label: Span,
    /// Candidates for every path that gets here, in `routes`, in order.
    through: Span,
    /// Candidates for a path that ends here, in `routes`, in order.
    ending: Span,
    /// In `nodes`, by the first byte of their labels, of which no two are equal.
    children: Span,
    /// The nearest ancestor with candidates, in `nodes`.
    above: Option<u32>,
}

/// A range that can be copied.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

/// How the paths of a route begin. The order of the fields makes sorting group them as nodes need them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    start: Box<[u8]>,
    /// Whether nothing may follow.
    whole: bool,
    route: u32,
}

// === impl PathIndex ===

impl PathIndex {
    /// The index of matchers in the order of their routes.
    pub(super) fn new<'a>(matchers: impl Iterator<Item = &'a PathMatch>) -> Self {
        let mut keys: Vec<Key> = matchers.enumerate().map(|(route, matcher)| Key::new(route, matcher)).collect();
        if keys.is_empty() {
            return Self::default();
        }
        keys.sort_unstable();
        let mut nodes = Vec::new();
        let mut firsts = Vec::new();
        let mut labels = Vec::new();
        let mut routes = Vec::new();
        // What is still to become a node: its keys, how many of their bytes its ancestors have, and the nearest of these
        // with candidates.
        let mut groups = VecDeque::from([(&keys[..], 0, None)]);
        while let Some((group, depth, above)) = groups.pop_front() {
            let shared = common_start(group);
            let label = &group[0].start[depth..shared];
            let (here, below) = group.split_at(group.partition_point(|key| key.start.len() == shared));
            let (through, ending) = here.split_at(here.partition_point(|key| !key.whole));
            let children = below.chunk_by(|one, other| one.start[shared] == other.start[shared]);
            let first_child = nodes.len() + 1 + groups.len();
            let nearest = if through.is_empty() { above } else { Some(narrow(nodes.len())) };
            groups.extend(children.map(|keys| (keys, shared, nearest)));
            nodes.push(Node {
                label: append(&mut labels, label.iter().copied()),
                through: append(&mut routes, through.iter().map(|key| key.route)),
                ending: append(&mut routes, ending.iter().map(|key| key.route)),
                children: Span::new(first_child, nodes.len() + 1 + groups.len()),
                above,
            });
            // The root alone may have an empty label, and it is nobody's child.
            firsts.push(label.first().copied().unwrap_or_default());
        }
        Self { nodes: nodes.into(), firsts: firsts.into(), labels: labels.into(), routes: routes.into() }
    }

    /// Shows `visit` every route that may take `path`, and perhaps some that do not, in lists that are each in order.
    ///
    /// The list of the longest start comes first: what is more specific mostly stands earlier in a configuration, as it would
    /// never be taken otherwise. So the match is mostly found at once, and what stands after it need not be tested.
    pub(super) fn candidates<'a>(&'a self, path: &str, mut visit: impl FnMut(&'a [u32])) {
        let Some((deepest, is_end)) = self.descend(path) else { return };
        if is_end {
            visit(deepest.ending.of(&self.routes));
        }
        let mut next = Some(deepest);
        while let Some(node) = next {
            visit(node.through.of(&self.routes));
            next = node.above.map(|above| &self.nodes[above as usize]);
        }
    }

    /// The last node that `path` gets to, and whether it ends there.
    fn descend(&self, path: &str) -> Option<(&Node, bool)> {
        let mut rest = path.as_bytes();
        let mut deepest = None;
        let mut next = self.nodes.first();
        while let Some(node) = next {
            let label = node.label.of(&self.labels);
            match rest.split_at_checked(label.len()) {
                Some((start, after)) if start.eq_ignore_ascii_case(label) => rest = after,
                _ => break,
            }
            let Some(first) = rest.first() else {
                return Some((node, true));
            };
            deepest = Some((node, false));
            next = self.child(node, first.to_ascii_lowercase());
        }
        deepest
    }

    fn child(&self, node: &Node, first: u8) -> Option<&Node> {
        let siblings = node.children.of(&self.firsts);
        let place = siblings.binary_search(&first).ok()?;
        Some(&node.children.of(&self.nodes)[place])
    }
}

/// How many bytes all keys of a sorted group have in common: those that its first and its last have.
fn common_start(group: &[Key]) -> usize {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return 0 };
    first.start.iter().zip(&last.start).take_while(|(one, other)| one == other).count()
}

fn append<V>(all: &mut Vec<V>, more: impl Iterator<Item = V>) -> Span {
    let start = all.len();
    all.extend(more);
    Span::new(start, all.len())
}

fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("the paths of a virtual host take less than 4 GiB")
}

// === impl Span ===

impl Span {
    fn new(start: usize, end: usize) -> Self {
        Self { start: narrow(start), end: narrow(end) }
    }

    fn of<V>(self, all: &[V]) -> &[V] {
        &all[self.start as usize..self.end as usize]
    }
}

// === impl Key ===

impl Key {
    fn new(route: usize, matcher: &PathMatch) -> Self {
        let (start, whole) = match matcher {
            PathMatch::Exact(path) => (&**path, true),
            PathMatch::Prefix(prefix) if takes_every_path(prefix) => ("", false),
            PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix) => (&**prefix, false),
            PathMatch::Regex(regex) => (literal_start(regex.as_str()), false),
        };
        Self { start: start.to_ascii_lowercase().into_bytes().into(), whole, route: narrow(route) }
    }
}

/// A text, in some case, that everything begins with that `pattern` describes as a whole; empty where that is not plain to see.
fn literal_start(pattern: &str) -> &str {
    const OPERATORS: [char; 14] = ['\\', '.', '^', '$', '|', '?', '*', '+', '(', ')', '[', ']', '{', '}'];
    // An alternative may begin otherwise, and this does not look where it stands.
    if pattern.contains('|') {
        return "";
    }
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let (literal, operators) = pattern.split_at(pattern.find(OPERATORS).unwrap_or(pattern.len()));
    if !operators.starts_with(['?', '*', '{']) {
        return literal;
    }
    // The last character may be there no times.
    let mut characters = literal.chars();
    characters.next_back();
    characters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(matchers: &[PathMatch], path: &str) -> Vec<u32> {
        let mut all = Vec::new();
        PathIndex::new(matchers.iter()).candidates(path, |list| {
            assert!(list.is_sorted(), "{list:?}");
            all.extend(list);
        });
        all.sort_unstable();
        all
    }

    fn regex(pattern: &str) -> PathMatch {
        PathMatch::regex(pattern).expect("a legal pattern")
    }

    #[test]
    fn only_routes_on_the_way_of_a_path_are_candidates() {
        let matchers = [
            PathMatch::exact("/a/b"),
            PathMatch::prefix("/a"),
            PathMatch::prefix("/a/b/c"),
            regex("/a/b/.*"),
            PathMatch::prefix("/"),
            PathMatch::exact("/a"),
            PathMatch::prefix("/ab"),
        ];
        assert_eq!(candidates(&matchers, "/a/b"), [0, 1, 4]);
        assert_eq!(candidates(&matchers, "/a/b/c/d"), [1, 2, 3, 4]);
        assert_eq!(candidates(&matchers, "/a"), [1, 4, 5]);
        assert_eq!(candidates(&matchers, "/abc"), [1, 4, 6]);
        assert_eq!(candidates(&matchers, "*"), [4]);
    }

    #[test]
    fn longest_start_comes_first() {
        let matchers =
            [PathMatch::prefix("/"), PathMatch::prefix("/a"), PathMatch::prefix("/a/b"), PathMatch::exact("/a")];
        let index = PathIndex::new(matchers.iter());
        let lists = |path| {
            let mut lists = Vec::<u32>::new();
            index.candidates(path, |list| lists.extend(list));
            lists
        };
        assert_eq!(lists("/a/b/c"), [2, 1, 0]);
        assert_eq!(lists("/a"), [3, 1, 0]);
    }

    #[test]
    fn case_is_left_to_the_test_in_full() {
        let matchers = [PathMatch::prefix("/API"), PathMatch::exact("/api")];
        assert_eq!(candidates(&matchers, "/Api"), [0, 1]);
    }

    #[test]
    fn expressions_begin_with_the_text_before_their_first_operator() {
        for (pattern, start) in [
            ("/a/.*", "/a/"),
            ("^/a$", "/a"),
            ("/ab?c", "/a"),
            ("/ab{0,2}", "/a"),
            ("/ab+", "/ab"),
            ("/é*", "/"),
            ("/v1\\.2", "/v1"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            ("[/]a", ""),
            ("", ""),
        ] {
            assert_eq!(literal_start(pattern), start, "{pattern}");
        }
    }

    #[test]
    fn ten_thousand_nested_prefixes_are_indexed_without_recursion() {
        let prefixes: Vec<_> = (1..=10_000).map(|length| PathMatch::prefix(&"/a".repeat(length))).collect();
        let index = PathIndex::new(prefixes.iter());
        let mut count = 0;
        index.candidates(&"/a".repeat(20), |list| count += list.len());
        assert_eq!(count, 20);
    }

    #[test]
    fn no_routes_are_no_candidates() {
        assert_eq!(candidates(&[], "/"), [0_u32; 0]);
    }
}
