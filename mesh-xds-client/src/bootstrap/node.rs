//! Who this client is, as it tells the control plane.

use envoy_types::pb::envoy::config::core::v3;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use mesh_core::config::Locality;
use serde_json::Value as Json;

/// The identity of this client (`node` of the bootstrap, `envoy.config.core.v3.Node` on the wire).
///
/// ```
/// use mesh_xds_client::bootstrap::Node;
///
/// let node = Node::new("sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local").metadata("GENERATOR", "grpc");
/// assert_eq!(node.to_proto().client_features.len(), 2);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Unique among the clients of a control plane. Many control planes refuse an empty one.
    pub id: String,
    /// The service that this client is part of.
    pub cluster: String,
    /// Where it runs.
    pub locality: Option<Locality>,
    /// What else the control plane wants to know. For Istio, `GENERATOR`, `NAMESPACE`, `LABELS` and others.
    pub metadata: serde_json::Map<String, Json>,
}

/// What a client of gRPC's tells control planes that it cannot do (gRFC A27).
pub(crate) const NO_OVERPROVISIONING: &str = "envoy.lb.does_not_support_overprovisioning";

/// What this client tells control planes that it can do and cannot (gRFC A27, A53).
const CLIENT_FEATURES: [&str; 2] = [NO_OVERPROVISIONING, "xds.config.resource-in-sotw"];

// === impl Node ===

impl Node {
    /// A node of which only the id is known.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// Sets one entry of the metadata.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The message for the first request of a stream, with this client's own name and version, and the features of gRPC's.
    pub fn to_proto(&self) -> v3::Node {
        v3::Node {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata: (!self.metadata.is_empty()).then(|| to_struct(&self.metadata)),
            locality: self.locality.as_ref().map(|locality| v3::Locality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.sub_zone.to_string(),
            }),
            user_agent_name: env!("CARGO_PKG_NAME").to_owned(),
            user_agent_version_type: Some(v3::node::UserAgentVersionType::UserAgentVersion(
                env!("CARGO_PKG_VERSION").to_owned(),
            )),
            client_features: CLIENT_FEATURES.map(str::to_owned).to_vec(),
            ..Default::default()
        }
    }
}

fn to_struct(object: &serde_json::Map<String, Json>) -> Struct {
    Struct { fields: object.iter().map(|(key, value)| (key.clone(), to_value(value))).collect() }
}

fn to_value(value: &Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        // `google.protobuf.Value` has doubles only; JSON numbers that are none do not come out of the parser.
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(to_value).collect() }),
        Json::Object(object) => Kind::StructValue(to_struct(object)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_of_every_json_type_becomes_a_struct() {
        let node = Node::new("n").metadata("all", json!({"a": [1, "two", true, null, {"b": 2.5}]}));
        let metadata = node.to_proto().metadata.expect("set");
        let Some(Kind::StructValue(all)) = &metadata.fields["all"].kind else { panic!("an object") };
        let Some(Kind::ListValue(list)) = &all.fields["a"].kind else { panic!("an array") };
        let kinds: Vec<_> = list.values.iter().filter_map(|value| value.kind.clone()).collect();
        assert_eq!(
            kinds[..4],
            [Kind::NumberValue(1.0), Kind::StringValue("two".to_owned()), Kind::BoolValue(true), Kind::NullValue(0)]
        );
        let Kind::StructValue(inner) = &kinds[4] else { panic!("an object") };
        assert_eq!(inner.fields["b"].kind, Some(Kind::NumberValue(2.5)));
    }

    #[test]
    fn client_names_itself_its_version_and_its_features() {
        let node = Node::new("n").to_proto();
        assert_eq!(node.user_agent_name, "mesh-xds-client");
        let version = v3::node::UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").to_owned());
        assert_eq!(node.user_agent_version_type, Some(version));
        assert_eq!(node.client_features, CLIENT_FEATURES);
        assert_eq!(node.metadata, None);
    }
}
