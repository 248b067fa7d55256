//! Requests on their way to bytes, name by name, since there may be thousands in one, and the codec that takes them as they are.

use std::{marker::PhantomData, mem};

use bytes::{BufMut, Bytes};
use prost::{Message, encoding::string};
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};

use super::messages::Protobuf;
use crate::{pace::Pace, session::Request};

/// Bytes out, and messages in.
pub(super) struct Encoded<M>(PhantomData<fn() -> M>);

/// Writes what is encoded.
pub(super) struct Verbatim;

/// `DiscoveryRequest.resource_names` and `DeltaDiscoveryRequest.resource_names_subscribe`.
const NAMES: u32 = 3;

/// What a name takes beside itself: the field's number, and its length up to 16 KiB.
const AROUND_NAME: usize = 3;

/// The bytes of a request. Its names come last, which in protobuf is all the same.
pub(crate) async fn encode(mut request: Request, pace: &mut Pace) -> Bytes {
    let names = match &mut request {
        Request::StateOfTheWorld(request) => mem::take(&mut request.resource_names),
        Request::Delta(request) => mem::take(&mut request.resource_names_subscribe),
    };
    let mut bytes = match request {
        Request::StateOfTheWorld(request) => request.encode_to_vec(),
        Request::Delta(request) => request.encode_to_vec(),
    };
    bytes.reserve(names.iter().map(|name| AROUND_NAME + name.len()).sum());
    for name in names {
        string::encode(NAMES, &name, &mut bytes);
        drop(name);
        pace.step().await;
    }
    bytes.into()
}

// === impl Encoded ===

impl<M> Encoded<M> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<M: Message + Default + 'static> Codec for Encoded<M> {
    type Encode = Bytes;
    type Decode = M;
    type Encoder = Verbatim;
    type Decoder = Protobuf<M>;

    fn encoder(&mut self) -> Verbatim {
        Verbatim
    }

    fn decoder(&mut self) -> Protobuf<M> {
        Protobuf::new()
    }
}

// === impl Verbatim ===

impl Encoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(bytes.len());
        buf.put(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    };

    use super::*;
    use crate::pace::{SLICE, in_slices};

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("cluster {number}")).collect()
    }

    #[test]
    fn bytes_are_those_of_the_message_and_are_written_in_slices() {
        let node = Some(Node { id: "node".to_owned(), ..<_>::default() });
        let (type_url, nonce) = ("type".to_owned(), "nonce".to_owned());
        let state = DiscoveryRequest {
            version_info: "version".to_owned(),
            node: node.clone(),
            resource_names: names(4 * SLICE),
            type_url: type_url.clone(),
            response_nonce: nonce.clone(),
            ..<_>::default()
        };
        let (bytes, gave_way) = in_slices(encode(Request::StateOfTheWorld(state.clone()), &mut Pace::new()));
        assert_eq!(DiscoveryRequest::decode(bytes), Ok(state));
        assert_eq!(gave_way, 4);

        let delta = DeltaDiscoveryRequest {
            node,
            type_url,
            response_nonce: nonce,
            resource_names_subscribe: names(SLICE),
            resource_names_unsubscribe: names(2),
            initial_resource_versions: [("cluster 0".to_owned(), "1".to_owned())].into(),
            ..<_>::default()
        };
        let (bytes, gave_way) = in_slices(encode(Request::Delta(delta.clone()), &mut Pace::new()));
        assert_eq!(DeltaDiscoveryRequest::decode(bytes), Ok(delta));
        assert_eq!(gave_way, 1);
    }
}
