//! The names of Istio: of nodes, of services as people write them, and of the resources that istiod makes of them.

use std::sync::Arc;

use mesh_core::config::ConfigError;

/// The listener of a sidecar through which everything comes in.
pub(crate) const INBOUND: &str = "virtualInbound";

/// Where a node is: what short names of services are completed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// The namespace and the domain of its services, such as `shop.svc.cluster.local`.
    domain: String,
}

/// What a target asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish<'a> {
    /// Every service that has this port.
    Port(u16),
    /// One service.
    Service {
        /// As it is written.
        host: &'a str,
        port: u16,
    },
}

/// A service, or a subset of one, that a cluster of a sidecar stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutboundService<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) port: u16,
    pub(crate) host: &'a str,
}

// === impl Names ===

impl Names {
    /// Those of a node with this id.
    pub(crate) fn of_node(id: &str) -> Result<Self, ConfigError> {
        let parts: Vec<_> = id.split('~').collect();
        match parts[..] {
            [_, _, _, domain] if parts.iter().all(|part| !part.is_empty()) => Ok(Self { domain: domain.to_owned() }),
            _ => {
                let remedy =
                    "give the four parts of Istio, such as `sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local`";
                Err(ConfigError::new("id", id, remedy))
            }
        }
    }

    /// What a host may stand for, the likeliest first: itself, then completed by the domain and by what remains of it when
    /// its first labels are taken away, as a resolver in a pod does.
    pub(crate) fn candidates(&self, host: &str) -> Vec<String> {
        let is_absolute = host.ends_with('.');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let mut candidates = vec![host.clone()];
        if is_absolute {
            return candidates;
        }
        // The namespace, `svc` and the domain of the cluster; a last label alone completes nothing.
        let mut rest = Some(&*self.domain);
        for _ in 0..3 {
            let Some(domain) = rest else { break };
            candidates.push(format!("{host}.{domain}"));
            rest = domain.split_once('.').map(|(_, rest)| rest).filter(|rest| rest.contains('.'));
        }
        candidates
    }
}

// === impl OutboundService ===

impl<'a> OutboundService<'a> {
    /// As istiod names it: `outbound|9080|v1|reviews.shop.svc.cluster.local`. None where a wildcard stands for many hosts.
    pub(crate) fn of(cluster: &'a str) -> Option<Self> {
        let mut parts = cluster.strip_prefix("outbound|")?.splitn(3, '|');
        let (port, _subset, host) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        (!host.starts_with('*')).then_some(Self { cluster, port, host })
    }

    /// Whether it is named as Kubernetes names services: `<name>.<namespace>.svc.<domain>`.
    pub(crate) fn is_of_kubernetes(self) -> bool {
        self.host.split('.').nth(2) == Some("svc")
    }
}

// === impl Wish ===

impl<'a> Wish<'a> {
    /// What `target` asks for: `host:port`, or `*:port`. The error says what to write.
    pub(crate) fn parse(target: &'a str) -> Result<Self, Arc<str>> {
        let name = target.strip_prefix("xds:").map_or(target, |rest| rest.strip_prefix("///").unwrap_or(rest));
        let wrong =
            || format!("target `{target}` names no service: write `host:port`, or `*:port` for every host").into();
        let (host, port) = name.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        match host {
            "" | "*" => Ok(Self::Port(port)),
            host if host.contains(['/', ':', '*', '|']) => Err(wrong()),
            host => Ok(Self::Service { host, port }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local";

    #[test]
    fn short_names_are_completed_as_in_a_pod() {
        let names = Names::of_node(NODE).expect("four parts");
        for (host, expected) in [
            (
                "reviews",
                &["reviews", "reviews.shop.svc.cluster.local", "reviews.svc.cluster.local", "reviews.cluster.local"][..],
            ),
            (
                "Reviews.Bank",
                &[
                    "reviews.bank",
                    "reviews.bank.shop.svc.cluster.local",
                    "reviews.bank.svc.cluster.local",
                    "reviews.bank.cluster.local",
                ],
            ),
            (
                "api.example.com",
                &[
                    "api.example.com",
                    "api.example.com.shop.svc.cluster.local",
                    "api.example.com.svc.cluster.local",
                    "api.example.com.cluster.local",
                ],
            ),
            ("reviews.shop.svc.cluster.local.", &["reviews.shop.svc.cluster.local"]),
        ] {
            assert_eq!(names.candidates(host), expected, "{host}");
        }
        let flat = Names::of_node("sidecar~10.0.0.7~vm.shop~mesh.internal").expect("four parts");
        assert_eq!(flat.candidates("reviews"), ["reviews", "reviews.mesh.internal"], "no label alone");
    }

    #[test]
    fn cluster_of_a_service_says_which_and_whose_it_is() {
        let of = |cluster| OutboundService::of(cluster).map(|one| (one.host, one.port, one.is_of_kubernetes()));
        let reviews = "reviews.shop.svc.cluster.local";
        assert_eq!(of("outbound|9080||reviews.shop.svc.cluster.local"), Some((reviews, 9080, true)));
        assert_eq!(of("outbound|9080|v1|reviews.shop.svc.cluster.local"), Some((reviews, 9080, true)));
        assert_eq!(of("outbound|443||api.example.com"), Some(("api.example.com", 443, false)));
        for none in
            ["PassthroughCluster", "inbound|9080||", "outbound|443||*.example.com", "outbound|x||a.b", "outbound|1|a"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn node_without_four_parts_is_refused() {
        for id in ["", "node", "sidecar~10.0.0.7~web-1.shop", "sidecar~~web-1.shop~x", "a~b~c~d~e"] {
            assert_eq!(Names::of_node(id).expect_err(id).field(), "id");
        }
    }

    #[test]
    fn target_is_a_service_or_a_port() {
        let service = |host, port| Ok(Wish::Service { host, port });
        for (target, expected) in [
            ("reviews:9080", service("reviews", 9080)),
            ("xds:///reviews.shop:9080", service("reviews.shop", 9080)),
            ("xds:reviews.shop:9080", service("reviews.shop", 9080)),
            ("*:9080", Ok(Wish::Port(9080))),
            (":9080", Ok(Wish::Port(9080))),
        ] {
            assert_eq!(Wish::parse(target), expected, "{target}");
        }
        for target in ["reviews", "reviews:", "reviews:0", "reviews:70000", "xds://plane/reviews:1", "*.example:80", ""]
        {
            let error = Wish::parse(target).expect_err(target);
            assert!(error.contains("`*:port`"), "{error}");
        }
    }
}
