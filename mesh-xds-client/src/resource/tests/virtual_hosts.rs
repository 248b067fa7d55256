//! Route configurations that are read virtual host by virtual host, after another version or none: what comes of it is what
//! decoding all of the message at once gives.

use envoy_types::pb::envoy::{
    config::{
        core::v3 as core_pb,
        route::v3::{self as pb, RouteConfiguration},
    },
    extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
};
use mesh_core::config::RouteConfig;
use proptest::prelude::*;

use super::*;
use crate::resource::{
    Rules,
    common::filled,
    route,
    samples::{FAULT, faults, unknown, wrap},
};

type Outcome<T> = Result<(T, Vec<Warning>), ResourceError>;

fn parts<T>(decoded: Decoded<T>) -> (T, Vec<Warning>) {
    (decoded.value, decoded.warnings)
}

/// The reference: all of it at once.
fn whole(bytes: &[u8]) -> Outcome<RouteConfig> {
    let decoded = read(bytes, |message: RouteConfiguration, notes| {
        filled("name", message.name.clone(), "name the route configuration")?;
        route::configuration(message, Rules::default(), notes)
    });
    decoded.map(parts)
}

/// In pieces of `most`.
fn in_pieces(kind: ResourceKind, bytes: &[u8], former: Option<&Resource>, most: usize) -> Outcome<Resource> {
    let (bytes, context) = (Bytes::copy_from_slice(bytes), Context::new());
    let Some(mut decoding) = Decoding::new(kind, &bytes, former, &context) else {
        return decode_parts(kind.type_url(), &bytes, &context).map(parts);
    };
    loop {
        if let Some(outcome) = decoding.advance(&mut most.clone(), &context) {
            return outcome.map(parts);
        }
    }
}

fn routes_in_pieces(bytes: &[u8], former: Option<&Routes>) -> (Routes, Vec<Warning>) {
    let former = former.cloned().map(Resource::RouteConfiguration);
    match in_pieces(ResourceKind::RouteConfiguration, bytes, former.as_ref(), 100).expect("good") {
        (Resource::RouteConfiguration(routes), warnings) => (routes, warnings),
        other => panic!("{other:?} is no route configuration"),
    }
}

/// A listener with these routes in it, which may be no message.
fn listener_of(routes: &[u8]) -> Vec<u8> {
    let manager = HttpConnectionManager { route_specifier: None, ..samples::connection_manager() }.encode_to_vec();
    let value = [&manager[..], &[0x22], &varint(routes.len()), routes].concat();
    let mut listener = samples::listener();
    let extension = listener.api_listener.as_mut().and_then(|api| api.api_listener.as_mut());
    extension.expect("the sample is for clients").value = value;
    listener.encode_to_vec()
}

/// Reads versions one after another, each in pieces of another size, as resources and in listeners, and compares each with the
/// reference.
#[track_caller]
fn assert_same(versions: impl IntoIterator<Item = Vec<u8>>) -> Option<Routes> {
    let (mut former, mut around): (Option<Resource>, Option<Resource>) = (None, None);
    for (bytes, most) in versions.into_iter().zip([1, 100, usize::MAX].into_iter().cycle()) {
        let outcome = in_pieces(ResourceKind::RouteConfiguration, &bytes, former.as_ref(), most);
        let seen = outcome.clone().map(|(routes, warnings)| {
            let routes = routes.routes().expect("that is what it is");
            (RouteConfig::clone(&routes.config), warnings)
        });
        assert_eq!(seen, whole(&bytes));
        former = outcome.ok().map(|(routes, _)| routes).or(former);

        let bytes = listener_of(&bytes);
        let outcome = in_pieces(ResourceKind::Listener, &bytes, around.as_ref(), most);
        let reference = decode_listener(&bytes, &Context::new())
            .map(|listener| parts(listener.map(|it| Resource::Listener(it.into()))));
        assert_eq!(outcome, reference);
        around = outcome.ok().map(|(listener, _)| listener).or(around);
    }
    former.as_ref().and_then(Resource::routes).cloned()
}

fn varint(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number as u64, &mut bytes);
    bytes
}

/// A virtual host of this number, in one of several shapes.
fn host(number: usize, shape: usize) -> pb::VirtualHost {
    let mut host = samples::routes().virtual_hosts.swap_remove(0);
    host.name = format!("host-{number}");
    host.domains = vec![format!("{number}.test")];
    match shape {
        0 => host.routes.clear(),
        1 => host.require_tls = 1,
        2 => host.routes.iter_mut().for_each(|route| route.action = None),
        3 => host.domains.clear(),
        4 => host.domains.push("shared.test".to_owned()),
        5 => host.name = "host".to_owned(),
        6 => host.typed_per_filter_config.clear(),
        7 => {
            let action = pb::RouteAction {
                cluster_specifier: Some(pb::route_action::ClusterSpecifier::ClusterSpecifierPlugin("p".to_owned())),
                ..Default::default()
            };
            host.routes[0].action = Some(pb::route::Action::Route(action));
        }
        _ => {}
    }
    host
}

/// What stands around the virtual hosts, in one of several shapes.
fn around(shape: usize) -> RouteConfiguration {
    let mut message = RouteConfiguration { virtual_hosts: Vec::new(), ..samples::routes() };
    let plugin = |is_optional| pb::ClusterSpecifierPlugin {
        extension: Some(core_pb::TypedExtensionConfig { name: "p".to_owned(), ..Default::default() }),
        is_optional,
    };
    match shape {
        0 => message.cluster_specifier_plugins = vec![plugin(true)],
        1 => message.cluster_specifier_plugins = vec![plugin(false)],
        2 => message.max_direct_response_body_size_bytes = wrap(1),
        3 => message.vhds = Some(pb::Vhds::default()),
        4 => message.name.clear(),
        5 => _ = message.typed_per_filter_config.insert(FAULT.to_owned(), samples::any(&faults(10))),
        6 => _ = message.typed_per_filter_config.insert(FAULT.to_owned(), unknown()),
        7 => message.ignore_port_in_host_matching = true,
        _ => {}
    }
    message
}

/// The message of these virtual hosts, what stands around them before the first, after the last or between.
fn bytes_of(around: &RouteConfiguration, hosts: &[(usize, usize)], place: usize) -> Vec<u8> {
    let (before, after) = hosts.split_at(place.min(hosts.len()));
    let alone = |hosts: &[(usize, usize)]| {
        let virtual_hosts = hosts.iter().map(|(number, shape)| host(*number, *shape)).collect();
        RouteConfiguration { virtual_hosts, ..Default::default() }.encode_to_vec()
    };
    [alone(before), around.encode_to_vec(), alone(after)].concat()
}

fn hosts(numbers: impl IntoIterator<Item = usize>, shape: usize) -> Vec<(usize, usize)> {
    numbers.into_iter().map(|number| (number, shape)).collect()
}

#[test]
fn what_has_not_changed_keeps_its_arc() {
    let first = bytes_of(&around(9), &hosts(0..100, 9), 0);
    let mut now = hosts(0..100, 9);
    now[7] = (7, 0);
    now.remove(50);
    now.insert(20, (200, 9));
    let former = assert_same([first]).expect("good");
    let (routes, _) = routes_in_pieces(&bytes_of(&around(9), &now, 99), Some(&former));
    let is_shared = |host: &Arc<_>| former.config.virtual_hosts().iter().any(|other| Arc::ptr_eq(other, host));
    let anew: Vec<_> = routes.config.virtual_hosts().iter().filter(|host| !is_shared(host)).collect();
    assert_eq!(anew.iter().map(|host| &**host.name()).collect::<Vec<_>>(), ["host-7", "host-200"]);
}

#[test]
fn what_has_not_changed_in_a_listener_keeps_its_arc() {
    let read = |bytes: &[u8], former: Option<&Resource>| {
        in_pieces(ResourceKind::Listener, &listener_of(bytes), former, 100).expect("good").0
    };
    let mut now = hosts(0..100, 9);
    now[7] = (7, 0);
    let before = read(&bytes_of(&around(9), &hosts(0..100, 9), 0), None);
    let after = read(&bytes_of(&around(9), &now, 50), Some(&before));
    let [before, after] = [&before, &after].map(|listener| &listener.routes().expect("inline").config);
    let pairs = before.virtual_hosts().iter().zip(after.virtual_hosts());
    let anew: Vec<_> = pairs.filter(|(a, b)| !Arc::ptr_eq(a, b)).map(|(_, host)| &**host.name()).collect();
    assert_eq!(anew, ["host-7"]);
}

#[test]
fn list_of_the_version_before_is_counted_as_work() {
    let in_order = hosts(0..1000, 9);
    let mut turned = in_order.clone();
    turned.rotate_right(1);
    let [in_order, turned] = [in_order, turned].map(|hosts| Bytes::from(bytes_of(&around(9), &hosts, 0)));
    let former = routes_in_pieces(&in_order, None).0;
    let is_done_with = |bytes: &Bytes, mut left: usize| {
        let mut decoding = virtual_hosts::RouteDecoding::new(bytes.clone(), Some(former.clone()), &Context::new());
        decoding.advance(&mut left).expect("good")
    };
    // The most with which it is not done in one turn, bit by bit.
    let work = |bytes: &Bytes| {
        let with = |most: usize, bit: u32| most | 1 << bit;
        (0..20).rev().fold(0, |most, bit| if is_done_with(bytes, with(most, bit)) { most } else { with(most, bit) })
    };
    assert!(work(&turned) >= work(&in_order) + 1000, "{} and {}", work(&turned), work(&in_order));
}

#[test]
fn same_value_in_other_bytes_keeps_its_arc() {
    let first = bytes_of(&around(9), &hosts(0..3, 9), 0);
    let mut doubled = RouteConfiguration { virtual_hosts: vec![host(1, 9)], ..Default::default() };
    // As servers do that write a default where others leave it out.
    doubled.virtual_hosts[0].require_tls = 0;
    let mut part = doubled.virtual_hosts[0].encode_to_vec();
    part.extend([0x20, 0]);
    let framed = [&[0x12][..], &varint(part.len()), &part].concat();
    let alone = |hosts: Vec<(usize, usize)>| bytes_of(&RouteConfiguration::default(), &hosts, 0);
    let second = [around(9).encode_to_vec(), alone(hosts([0], 9)), framed, alone(hosts([2], 9))].concat();
    let former = assert_same([first]).expect("good");
    let (routes, _) = routes_in_pieces(&second, Some(&former));
    assert_eq!(routes, former);
    let pairs = former.config.virtual_hosts().iter().zip(routes.config.virtual_hosts());
    assert!(pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b)));
}

#[test]
fn what_depends_on_the_whole_is_read_again_when_that_changes() {
    // Faults of the whole, the longest body, and a plugin that may be missing.
    for (before, now, shape) in [(9, 5, 6), (9, 2, 9), (0, 9, 7), (9, 0, 7)] {
        assert_same([before, now, before].map(|frame| bytes_of(&around(frame), &hosts(0..3, shape), 0)));
    }
}

#[test]
fn what_a_trusted_server_has_said_is_read_again_where_another_says_it() {
    let mut message = RouteConfiguration { virtual_hosts: vec![host(0, 9)], ..around(9) };
    let Some(pb::route::Action::Route(action)) = &mut message.virtual_hosts[0].routes[0].action else {
        panic!("the first route of the sample forwards");
    };
    action.host_rewrite_specifier = Some(pb::route_action::HostRewriteSpecifier::HostRewriteLiteral("h".to_owned()));
    let bytes = Bytes::from(message.encode_to_vec());
    let read =
        |former: Option<&Routes>, context: &Context| decode_routes(bytes.clone(), former, context).expect("good");
    let trusted = read(None, &Context::new().trusting());
    let other = read(Some(&trusted.value), &Context::new());
    assert_eq!(Ok((RouteConfig::clone(&other.value.config), other.warnings)), whole(&bytes));
    assert_ne!(other.value, trusted.value);
}

#[test]
fn warnings_stand_where_the_virtual_host_stands_now() {
    let warned = |numbers: &[usize]| {
        let hosts: Vec<_> = numbers.iter().map(|number| (*number, 1)).collect();
        bytes_of(&around(9), &hosts, 0)
    };
    let former = assert_same([warned(&[0, 1, 2]), warned(&[2, 0]), warned(&[5, 0, 2])]);
    let (_, warnings) = routes_in_pieces(&warned(&[7, 2]), former.as_ref());
    // Nobody said that the server is trusted, so that of each host there is a rewrite to warn of too.
    let of_hosts = ["require_tls", "routes[0].route.host_rewrite_specifier"];
    let expected = [0, 1].map(|at| of_hosts.map(|field| format!("virtual_hosts[{at}].{field}")));
    assert_eq!(fields(&warnings), expected.as_flattened());
}

#[test]
fn more_warnings_than_are_told_are_counted_whoever_has_them() {
    let many = |shape| {
        let mut all = hosts(0..90, 2);
        all[0].1 = shape;
        bytes_of(&around(3), &all, 0)
    };
    assert_same([many(2), many(1), many(9), many(2)]);
}

#[test]
fn warnings_that_are_not_told_are_not_kept_and_come_back_when_they_are_to_be() {
    let warned = |numbers: std::ops::Range<usize>| bytes_of(&around(9), &hosts(numbers, 1), 0);
    let (former, _) = routes_in_pieces(&warned(0..1000), None);
    assert!(former.texts() < 2 * Notes::LIMIT, "{} texts are kept", former.texts());
    let (routes, told) = routes_in_pieces(&warned(990..1000), Some(&former));
    assert_eq!(told, whole(&warned(990..1000)).expect("good").1);
    let shared = former.config.virtual_hosts()[990..].iter().zip(routes.config.virtual_hosts());
    assert!(
        shared.into_iter().all(|(before, after)| Arc::ptr_eq(before, after)),
        "it is the warnings that are read again"
    );

    let last = assert_same([warned(0..90), warned(60..90), warned(0..90), warned(20..80), warned(0..500)]);
    let last = last.expect("good");
    assert!(last.texts() < 2 * Notes::LIMIT, "{} texts are kept", last.texts());
}

#[test]
fn of_several_complaints_the_one_is_told_that_decoding_all_at_once_tells() {
    let garbage = [0x12, 2, 0xff, 0xff];
    let unnamed = bytes_of(&around(4), &hosts(0..2, 9), 0);
    let invalid = bytes_of(&around(9), &hosts(0..2, 3), 0);
    let cut = &invalid[..invalid.len() - 1];
    assert_same([
        invalid.clone(),
        [&invalid[..], &garbage].concat(),
        [&garbage[..], cut].concat(),
        [cut, &garbage[..]].concat(),
        [&unnamed[..], &invalid].concat(),
        [&unnamed[..], &garbage].concat(),
        [&invalid[..], &[0x17]].concat(),
        [&garbage[..], &[0x17]].concat(),
        [&invalid[..], &[0x10, 1]].concat(),
        [&invalid[..], &[0x13, 0x14]].concat(),
    ]);
}

#[test]
fn virtual_host_is_as_deep_in_its_message_as_ever() {
    use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
    // Around the limit of the decoder, from either side.
    for depth in 40..60 {
        let nested = (0..depth).fold(Value::default(), |value, _| Value {
            kind: Some(Kind::ListValue(ListValue { values: vec![value] })),
        });
        let metadata = Struct { fields: [("k".to_owned(), nested)].into() };
        let mut host = host(0, 9);
        let filter_metadata = [("m".to_owned(), metadata)].into();
        host.metadata = Some(core_pb::Metadata { filter_metadata, ..Default::default() });
        assert_same([RouteConfiguration { virtual_hosts: vec![host], ..around(9) }.encode_to_vec()]);
    }
}

proptest! {
    #[test]
    fn a_version_reads_the_same_whatever_came_before(
        versions in proptest::collection::vec(
            (0..12_usize, proptest::collection::vec((0..6_usize, 0..40_usize), 0..7), 0..8_usize), 1..6),
        damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut versions: Vec<_> =
            versions.iter().map(|(frame, hosts, place)| bytes_of(&around(*frame), hosts, *place)).collect();
        let mut damaged = versions.last().cloned().unwrap_or_default();
        if let Some((place, byte)) = damage && !damaged.is_empty() {
            let place = place.index(damaged.len());
            damaged[place] = byte;
        }
        versions.push(damaged);
        assert_same(versions);
    }
}

#[cfg(feature = "testkit")]
#[test]
fn mutations_read_the_same_after_what_they_are_of() {
    let good = bytes_of(&around(9), &hosts(0..4, 9), 2);
    let mut mutations = crate::testkit::Mutations::new(1);
    for _ in 0..300 {
        assert_same([good.clone(), mutations.of(&good), good.clone()]);
    }
}
