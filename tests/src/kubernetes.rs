//! Objects of a Kubernetes cluster with Istio, as far as tests apply them; all of them in the namespace [`NAMESPACE`].

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Where the objects are.
pub const NAMESPACE: &str = "shop";

/// Ports by name.
pub type Ports<'a> = &'a [(&'a str, u16)];

/// An object of any kind.
pub fn object(api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({ "name": name, "namespace": NAMESPACE });
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec })
}

/// A `Service` whose ports are called for what they speak: `grpc`, `http`. No two services have the same number.
pub fn service(name: &str, number: u8, ports: Ports<'_>) -> Value {
    let spec = json!({ "clusterIP": Ipv4Addr::new(10, 96, 0, number), "ports": named(ports) });
    object("v1", "Service", name, spec)
}

/// A `Service` without an address of its own: whoever calls it picks one of its pods.
pub fn headless(name: &str, ports: Ports<'_>) -> Value {
    object("v1", "Service", name, json!({ "clusterIP": "None", "ports": named(ports) }))
}

/// A `Pod` that runs and is ready. istiod takes an endpoint's labels from the pod of its address.
pub fn pod(name: &str, ip: Ipv4Addr, version: &str) -> Value {
    let mut pod = object("v1", "Pod", name, json!({ "serviceAccountName": "default" }));
    pod["metadata"]["labels"] = json!({ "version": version });
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    pod["status"] = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": ready });
    pod
}

/// An `EndpointSlice` with the pod of that name as the only endpoint of a service, listening where `ports` say.
pub fn endpoint_slice(service: &str, pod: &str, ip: Ipv4Addr, ports: Ports<'_>) -> Value {
    let target = json!({ "kind": "Pod", "name": pod, "namespace": NAMESPACE });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{pod}"),
            "namespace": NAMESPACE,
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [ip], "conditions": { "ready": true }, "targetRef": target }],
        "ports": named(ports),
    })
}

/// A token of a service account, good for so long. Our Kubernetes API believes a token whose signature reads `good`.
pub fn token(account: &str, lifetime: Duration) -> String {
    let end = SystemTime::now() + lifetime;
    let end = end.duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set").as_secs();
    let claims = json!({ "sub": format!("system:serviceaccount:{NAMESPACE}:{account}"), "exp": end });
    format!("e30.{}.good", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn named(ports: Ports<'_>) -> Value {
    ports.iter().map(|(name, port)| json!({ "name": name, "port": port })).collect()
}

/// A `VirtualService` for the requests of a host, called as that host is.
pub fn virtual_service(host: &str, http: Value) -> Value {
    object("networking.istio.io/v1", "VirtualService", host, json!({ "hosts": [host], "http": http }))
}

/// A `DestinationRule` for a host, called as that host is, with a subset for each value of the label `version`.
pub fn destination_rule(host: &str, versions: &[&str], policy: Value) -> Value {
    let subset = |version: &&str| json!({ "name": version, "labels": { "version": version } });
    let subsets: Vec<_> = versions.iter().map(subset).collect();
    let spec = json!({ "host": host, "subsets": subsets, "trafficPolicy": policy });
    object("networking.istio.io/v1", "DestinationRule", host, spec)
}

/// A route of the Gateway API (`HTTPRoute`, `GRPCRoute`), called `name`, for the requests to a port of a service.
///
/// A real API server fills in the defaults of the Gateway API, and istiod relies on that: a match of an `HTTPRoute` without
/// a `path` ends it.
pub fn gateway_route(kind: &str, name: &str, (service, port): (&str, u16), rules: Value) -> Value {
    let parent = json!({ "group": "", "kind": "Service", "name": service, "port": port });
    object("gateway.networking.k8s.io/v1", kind, name, json!({ "parentRefs": [parent], "rules": rules }))
}
