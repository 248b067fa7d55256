//! What is logged of a response: every sort of trouble, and no line for each of ten thousand resources.
//!
//! A control plane that sends a field which is not honoured sends it in every cluster. The status has it all, resource by
//! resource; the log has the first of each sort.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::config::Warning;

use crate::{ResourceKind, session::ResourceError};

/// What was found in one response that is worth a line.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Refused, and not refused before.
    pub(crate) refused: Vec<ResourceError>,
    /// Accepted, with warnings that are new: the name of each resource and its warnings.
    pub(crate) warned: Vec<(Arc<str>, Vec<Warning>)>,
}

/// Remembers what has been logged.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    /// The kinds and fields that were warned of. Bounded, since a peer chooses them.
    told: BTreeSet<(ResourceKind, String)>,
}

/// Refusals of one response that get a line each.
const REFUSALS: usize = 16;

/// Fields that are remembered as warned of; what comes after is logged for debugging only.
const FIELDS: usize = 256;

// === impl Reporter ===

impl Reporter {
    pub(crate) fn tell(&mut self, kind: ResourceKind, version: &str, node_id: &str, findings: &Findings) {
        for error in findings.refused.iter().take(REFUSALS) {
            tracing::warn!(%kind, version, node.id = node_id, %error, "resource is refused");
        }
        if findings.refused.len() > REFUSALS {
            let others = findings.refused.len() - REFUSALS;
            tracing::warn!(%kind, version, node.id = node_id, others, "further resources are refused");
        }
        for (name, warning) in findings.warned.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one))) {
            let (field, message) = (&warning.field, &warning.message);
            if self.is_first(kind, field) {
                tracing::warn!(%kind, %name, field, %message, "part of a resource is not honoured");
            } else {
                tracing::debug!(%kind, %name, field, %message, "part of a resource is not honoured");
            }
        }
    }

    /// Whether this field is warned of for the first time, wherever in its lists it stands.
    fn is_first(&mut self, kind: ResourceKind, field: &str) -> bool {
        let sort = (kind, without_places(field));
        self.told.len() < FIELDS && self.told.insert(sort)
    }
}

/// `routes[3].match` and `routes[12].match` are the same sort of field.
fn without_places(field: &str) -> String {
    let mut is_within = false;
    let keep = |letter: &char| {
        is_within = (is_within || *letter == '[') && *letter != ']';
        !is_within || *letter == '['
    };
    field.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_field_of_another_resource_or_place_is_told_once() {
        let mut reporter = Reporter::default();
        assert!(reporter.is_first(ResourceKind::RouteConfiguration, "virtual_hosts[0].routes[7].tracing"));
        assert!(!reporter.is_first(ResourceKind::RouteConfiguration, "virtual_hosts[12].routes[1].tracing"));
        assert!(reporter.is_first(ResourceKind::RouteConfiguration, "virtual_hosts[0].routes[7].cors"));
        assert!(reporter.is_first(ResourceKind::Cluster, "virtual_hosts[0].routes[7].tracing"));
    }

    #[test]
    fn places_are_left_out_and_nothing_else() {
        assert_eq!(without_places("a[10].b[2].c"), "a[].b[].c");
        assert_eq!(without_places("lb_policy"), "lb_policy");
        assert_eq!(without_places("a[1"), "a[");
    }

    #[test]
    fn memory_is_bounded() {
        let mut reporter = Reporter::default();
        for number in 0..10_000 {
            reporter.is_first(ResourceKind::Cluster, &format!("field-{number}"));
        }
        assert_eq!(reporter.told.len(), FIELDS);
    }
}
