//! A cluster made of others, and which endpoints that comes to (`envoy.extensions.clusters.aggregate.v3.ClusterConfig`,
//! gRFC A37).

use std::{collections::HashSet, error::Error as StdError, fmt, sync::Arc};

use super::{Cluster, ConfigError};

/// The clusters that a cluster is made of, the preferred first. They may be made of others in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    clusters: Vec<Arc<str>>,
}

/// An aggregate cluster that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AggregateError {
    /// Clusters are made of clusters too many times over, down to the one that is named.
    TooDeep(Arc<str>),
    /// None of the clusters is known and has endpoints of its own: they do not exist, or are made of one another.
    NoLeaf,
}

/// A walk down from an aggregate cluster.
struct Walk<F> {
    find: F,
    seen: HashSet<Arc<str>>,
    leaves: Vec<Arc<str>>,
}

// === impl Aggregate ===

impl Aggregate {
    /// How many clusters there may be above one another, the lowest included (gRFC A37).
    pub const DEPTH: usize = 16;

    /// A cluster made of `clusters`; one that is named again counts where it comes first.
    ///
    /// # Errors
    ///
    /// Refuses an empty list and an empty name.
    pub fn of<N: Into<Arc<str>>>(clusters: impl IntoIterator<Item = N>) -> Result<Self, ConfigError> {
        let mut seen = HashSet::new();
        let clusters: Vec<Arc<str>> =
            clusters.into_iter().map(Into::into).filter(|name: &Arc<str>| seen.insert(name.clone())).collect();
        if clusters.is_empty() {
            return Err(ConfigError::new("clusters", "[]", "name at least one cluster"));
        }
        match clusters.iter().position(|name| name.is_empty()) {
            Some(index) => Err(ConfigError::new(format!("clusters[{index}]"), "", "name the cluster")),
            None => Ok(Self { clusters }),
        }
    }

    /// The clusters, the preferred first.
    pub fn clusters(&self) -> &[Arc<str>] {
        &self.clusters
    }

    /// The clusters with endpoints of their own that the cluster `name` comes to, the preferred first, each once; `find` knows
    /// clusters. One that does not exist is passed over, and so is one that was seen before: a cluster that is made of itself
    /// adds nothing to itself.
    ///
    /// # Errors
    ///
    /// When there is none, or more than [`DEPTH`](Self::DEPTH) stand above one another.
    pub fn leaves<C: AsRef<Cluster>>(
        name: &Arc<str>,
        find: impl Fn(&str) -> Option<C>,
    ) -> Result<Vec<Arc<str>>, AggregateError> {
        let mut walk = Walk { find, seen: HashSet::new(), leaves: Vec::new() };
        walk.visit(name, 0)?;
        if walk.leaves.is_empty() {
            return Err(AggregateError::NoLeaf);
        }
        Ok(walk.leaves)
    }
}

// === impl AggregateError ===

impl fmt::Display for AggregateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep(name) => {
                write!(f, "more than {} aggregate clusters stand above `{name}`", Aggregate::DEPTH - 1)
            }
            Self::NoLeaf => f.write_str("none of the clusters that it is made of is known"),
        }
    }
}

impl StdError for AggregateError {}

// === impl Walk ===

impl<C: AsRef<Cluster>, F: Fn(&str) -> Option<C>> Walk<F> {
    fn visit(&mut self, name: &Arc<str>, depth: usize) -> Result<(), AggregateError> {
        if depth == Aggregate::DEPTH {
            return Err(AggregateError::TooDeep(name.clone()));
        }
        if !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(cluster) = (self.find)(name) else { return Ok(()) };
        match cluster.as_ref().aggregate() {
            Some(aggregate) => aggregate.clusters.iter().try_for_each(|child| self.visit(child, depth + 1)),
            None => {
                self.leaves.push(name.clone());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Discovery;

    /// The leaves of `a`, where `made_of` says what is made of what; a cluster made of nothing is a leaf.
    fn leaves(made_of: &[(&str, &[&str])]) -> Result<Vec<String>, AggregateError> {
        let cluster = |(name, parts): &(&str, &[&str])| {
            let mut cluster = Cluster::new(*name).expect("it has a name");
            if !parts.is_empty() {
                let parts = Aggregate::of(parts.iter().copied()).expect("all have names");
                cluster.discovery = Discovery::Aggregate(Arc::new(parts));
            }
            (name.to_string(), Arc::new(cluster))
        };
        let all: BTreeMap<_, _> = made_of.iter().map(cluster).collect();
        let leaves = Aggregate::leaves(&"a".into(), |name| all.get(name).cloned())?;
        Ok(leaves.iter().map(ToString::to_string).collect())
    }

    /// A chain of `length` clusters below `a`.
    fn chain(length: usize) -> Result<Vec<String>, AggregateError> {
        let name = |number: usize| if number == 0 { "a".to_owned() } else { format!("c{number}") };
        let names: Vec<_> = (0..=length).map(name).collect();
        let parts: Vec<Vec<&str>> =
            (0..=length).map(|number| names.get(number + 1).map(String::as_str).into_iter().collect()).collect();
        let made_of: Vec<_> = names.iter().zip(&parts).map(|(name, parts)| (name.as_str(), parts.as_slice())).collect();
        leaves(&made_of)
    }

    #[test]
    fn leaves_come_depth_first_and_each_once() {
        let found = leaves(&[("a", &["b", "c", "d"]), ("b", &["d", "e"]), ("c", &[]), ("d", &[]), ("e", &[])]);
        assert_eq!(found.expect("there are leaves"), ["d", "e", "c"]);
        let twice = Aggregate::of(["b", "c", "b"]).expect("a name may be repeated");
        assert_eq!(twice.clusters().len(), 2);
    }

    #[test]
    fn cluster_that_does_not_exist_is_passed_over() {
        assert_eq!(leaves(&[("a", &["gone", "c"]), ("c", &[])]).expect("c is there"), ["c"]);
        assert_eq!(leaves(&[("a", &["gone"])]), Err(AggregateError::NoLeaf));
    }

    #[test]
    fn circle_adds_nothing() {
        assert_eq!(leaves(&[("a", &["b"]), ("b", &["a", "c"]), ("c", &[])]).expect("c is there"), ["c"]);
        assert_eq!(leaves(&[("a", &["b"]), ("b", &["a"])]), Err(AggregateError::NoLeaf));
        assert_eq!(leaves(&[("a", &["a"])]), Err(AggregateError::NoLeaf));
    }

    #[test]
    fn sixteen_may_stand_above_one_another() {
        assert_eq!(chain(15).expect("sixteen"), ["c15"]);
        assert_eq!(chain(16), Err(AggregateError::TooDeep("c16".into())));
    }

    #[test]
    fn aggregate_of_nothing_is_refused() {
        assert_eq!(Aggregate::of(Vec::<&str>::new()).expect_err("none").field(), "clusters");
        assert_eq!(Aggregate::of(["a", ""]).expect_err("no name").field(), "clusters[1]");
    }
}
