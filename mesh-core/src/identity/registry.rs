//! The identity sources of a process, by the names that configuration calls them.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{Identity, IdentityError, IdentitySource, IdentityStatus};
use crate::config::IdentityName;

/// The sources of a process by name: what [`UpstreamTls`](crate::config::UpstreamTls) means by an identity's name.
///
/// A cheap handle; clones share the registry. A name is looked up at handshake time, so that a source may come after the
/// configuration that mentions it. Whoever inserts a source spawns its [work](IdentitySource::work).
#[derive(Clone, Debug, Default)]
pub struct Identities {
    by_name: Arc<ArcSwap<BTreeMap<IdentityName, Arc<dyn IdentitySource>>>>,
}

// === impl Identities ===

impl Identities {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers `source` under `name` and returns the one that it replaces.
    pub fn insert(
        &self,
        name: impl Into<IdentityName>,
        source: Arc<dyn IdentitySource>,
    ) -> Option<Arc<dyn IdentitySource>> {
        let name = name.into();
        let before = self.by_name.rcu(|sources| {
            let mut sources = BTreeMap::clone(sources);
            sources.insert(name.clone(), source.clone());
            sources
        });
        before.get(&name).cloned()
    }

    /// The source of this name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn IdentitySource>> {
        self.by_name.load().get(name).cloned()
    }

    /// How many names there are. None is ever taken back, so where there are as many as before they are the same.
    pub fn count(&self) -> usize {
        self.by_name.load().len()
    }

    /// The current identity of this name.
    ///
    /// # Errors
    ///
    /// Says that no source has the name, or what its source says.
    pub fn current(&self, name: &str) -> Result<Arc<Identity>, IdentityError> {
        match self.by_name.load().get(name) {
            Some(source) => source.current(),
            None => Err(IdentityError::absent(
                format!("identity `{name}`"),
                "no source is registered under this name",
                "register one, or name one that is",
            )),
        }
    }

    /// How each source is doing, by name.
    pub fn statuses(&self) -> Vec<(IdentityName, IdentityStatus)> {
        self.by_name.load().iter().map(|(name, source)| (name.clone(), source.status())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{FixedIdentity, IdentityErrorKind};

    #[test]
    fn an_unregistered_name_says_so() {
        let identities = Identities::new();
        let identity = Identity::new([&b"der"[..]], &b"der"[..]).expect("legal");
        identities.insert("a", Arc::new(FixedIdentity::new(identity)));
        assert!(identities.current("a").is_ok());
        assert_eq!(identities.count(), 1);
        let error = identities.current("b").expect_err("refused");
        assert_eq!(error.kind(), IdentityErrorKind::Absent);
        assert!(error.to_string().contains("identity `b`"));
    }
}
