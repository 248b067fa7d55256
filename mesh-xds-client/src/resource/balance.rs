//! How an endpoint is picked (`lb_policy`, `load_balancing_policy`, `common_lb_config`).

use envoy_types::pb::{
    envoy::{
        config::cluster::v3::{
            Cluster, LoadBalancingPolicy,
            cluster::{
                CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig,
                common_lb_config::LocalityConfigSpecifier as CommonLocality, ring_hash_lb_config::HashFunction,
            },
        },
        extensions::load_balancing_policies::{
            client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin,
            common::v3::{LocalityLbConfig, locality_lb_config::LocalityConfigSpecifier},
            least_request::v3::LeastRequest,
            maglev::v3::Maglev,
            pick_first::v3::PickFirst,
            random::v3::Random,
            ring_hash::v3::{RingHash, ring_hash},
            round_robin::v3::RoundRobin,
            wrr_locality::v3::WrrLocality,
        },
    },
    google::protobuf::{Any, UInt32Value, UInt64Value},
};
use mesh_core::config::{ConfigError, LoadBalancing, Percent};

use super::{
    common::{duration, is, number, percent, told_as, unpack},
    notes::{Notes, warn_if_set},
};

const ROUND_ROBIN_INSTEAD: &str = "not known here; endpoints take turns instead";

/// What a cluster says of picking.
pub(super) struct Balance {
    pub(super) policy: LoadBalancing,
    pub(super) locality_weighted: Option<bool>,
    pub(super) panic_threshold: Option<Percent>,
}

/// A policy out of a list: how to pick, and whether localities are weighted.
type Choice = (LoadBalancing, Option<bool>);

/// How an endpoint of a cluster is picked. `load_balancing_policy` replaces `lb_policy`.
pub(super) fn decode(message: &Cluster, notes: &mut Notes) -> Result<Balance, ConfigError> {
    let common = notes.opt("common_lb_config", message.common_lb_config.as_ref(), common)?;
    let (weighted_by_common, panic_threshold) = common.unwrap_or_default();
    let listed = notes.opt("load_balancing_policy", message.load_balancing_policy.as_ref(), |list, notes| {
        first_known(list, 0, notes)
    })?;
    let (policy, locality_weighted) = match listed {
        Some(choice) => choice,
        None => (named(message, notes)?, None),
    };
    Ok(Balance { policy, locality_weighted: locality_weighted.or(weighted_by_common), panic_threshold })
}

fn common(message: &CommonLbConfig, notes: &mut Notes) -> Result<(Option<bool>, Option<Percent>), ConfigError> {
    warn_if_set!(notes, message, "connections are kept when endpoints change", [close_connections_on_host_set_change]);
    let weighted = match &message.locality_config_specifier {
        Some(CommonLocality::LocalityWeightedLbConfig(_)) => Some(true),
        Some(CommonLocality::ZoneAwareLbConfig(_)) => {
            notes.warn("zone_aware_lb_config", "no zone is preferred");
            None
        }
        None => None,
    };
    Ok((weighted, percent("healthy_panic_threshold", message.healthy_panic_threshold)?))
}

// --- lb_policy ---

fn named(message: &Cluster, notes: &mut Notes) -> Result<LoadBalancing, ConfigError> {
    let refuse = |remedy: &'static str| ConfigError::new("lb_policy", message.lb_policy, remedy);
    match LbPolicy::try_from(message.lb_policy) {
        Ok(LbPolicy::RoundRobin) => {
            if let Some(LbConfig::RoundRobinLbConfig(config)) = &message.lb_config {
                let slow_start = |(), notes: &mut Notes| {
                    warn_if_set!(notes, config, "new endpoints take their full share at once", [slow_start_config]);
                    Ok(())
                };
                notes.at("round_robin_lb_config", (), slow_start)?;
            }
            Ok(LoadBalancing::RoundRobin)
        }
        Ok(LbPolicy::LeastRequest) => match &message.lb_config {
            Some(LbConfig::LeastRequestLbConfig(config)) => {
                notes.at("least_request_lb_config", config, least_request_config)
            }
            _ => Ok(LoadBalancing::LEAST_REQUEST),
        },
        Ok(LbPolicy::Random) => Ok(LoadBalancing::Random),
        Ok(policy @ (LbPolicy::RingHash | LbPolicy::Maglev)) => {
            if let (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config))) = (policy, &message.lb_config) {
                notes.at("ring_hash_lb_config", config, |config, _| {
                    refuse_unknown::<HashFunction>(config.hash_function)?;
                    refuse_bad_ring(config.minimum_ring_size, config.maximum_ring_size)
                })?;
            }
            notes.warn("lb_policy", ROUND_ROBIN_INSTEAD);
            Ok(LoadBalancing::RoundRobin)
        }
        Ok(LbPolicy::LoadBalancingPolicyConfig) => Err(refuse("set load_balancing_policy")),
        // Envoy has it for the clusters that provide one, which do not come here.
        Ok(LbPolicy::ClusterProvided) => Err(refuse("keep it for aggregate and ORIGINAL_DST clusters")),
        Err(_) => Err(refuse("use ROUND_ROBIN, LEAST_REQUEST or RANDOM")),
    }
}

fn least_request_config(message: &LeastRequestLbConfig, notes: &mut Notes) -> Result<LoadBalancing, ConfigError> {
    warn_if_set!(notes, message, "endpoints are picked as without it", [active_request_bias, slow_start_config]);
    least_request(message.choice_count, notes)
}

fn least_request(choice_count: Option<UInt32Value>, notes: &mut Notes) -> Result<LoadBalancing, ConfigError> {
    let choices = number(choice_count).unwrap_or(2);
    if choices > LoadBalancing::MOST_CHOICES {
        let most = LoadBalancing::MOST_CHOICES;
        notes.warn(
            "choice_count",
            format!("no more endpoints than {most} are looked at for a request, by gRPC's rules 10"),
        );
    }
    LoadBalancing::LeastRequest { choices }.validated().map_err(|error| told_as("choice_count", &error))
}

// --- load_balancing_policy ---

/// The first policy of the list that is known. One that is not honoured is not known, as long as another is; where it is
/// all there is, endpoints take turns rather than the cluster being lost.
fn first_known(list: &LoadBalancingPolicy, depth: usize, notes: &mut Notes) -> Result<Choice, ConfigError> {
    const DEEPEST: usize = 16;
    if depth > DEEPEST {
        return Err(ConfigError::new("policies", depth, "nest at most 16 policies"));
    }
    let mut replaced = None;
    for (index, policy) in list.policies.iter().enumerate() {
        let Some(extension) = policy.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref())
        else {
            continue;
        };
        let field = format!("policies[{index}].typed_extension_config.typed_config");
        if let Some(choice) = notes.at(&field, extension, |extension, notes| known(extension, depth, notes))? {
            return Ok(choice);
        }
        if replaced.is_none() && is_replaced(extension) {
            notes.at(&field, extension, |extension, _| refuse_bad(extension))?;
            replaced = Some(field);
        }
    }
    match replaced {
        Some(field) => {
            notes.warn(field, ROUND_ROBIN_INSTEAD);
            Ok((LoadBalancing::RoundRobin, None))
        }
        None => {
            let remedy = "list round_robin, least_request, random or wrr_locality";
            Err(ConfigError::new("policies", format!("{} policies", list.policies.len()), remedy))
        }
    }
}

fn is_replaced(extension: &Any) -> bool {
    is::<RingHash>(extension)
        || is::<Maglev>(extension)
        || is::<PickFirst>(extension)
        || is::<ClientSideWeightedRoundRobin>(extension)
}

/// What is replaced is still refused where no client would take it.
fn refuse_bad(extension: &Any) -> Result<(), ConfigError> {
    if is::<RingHash>(extension) {
        let config: RingHash = unpack(extension)?;
        refuse_unknown::<ring_hash::HashFunction>(config.hash_function)?;
        return refuse_bad_ring(config.minimum_ring_size, config.maximum_ring_size);
    }
    if is::<ClientSideWeightedRoundRobin>(extension) {
        let config: ClientSideWeightedRoundRobin = unpack(extension)?;
        duration("oob_reporting_period", config.oob_reporting_period)?;
        duration("blackout_period", config.blackout_period)?;
        duration("weight_expiration_period", config.weight_expiration_period)?;
        duration("weight_update_period", config.weight_update_period)?;
        let penalty = config.error_utilization_penalty.map_or(0.0, |penalty| penalty.value);
        if penalty.is_nan() || penalty < 0.0 {
            return Err(ConfigError::new("error_utilization_penalty", penalty, "give no penalty below 0"));
        }
    }
    Ok(())
}

fn refuse_unknown<F: TryFrom<i32>>(function: i32) -> Result<(), ConfigError> {
    F::try_from(function).map(drop).map_err(|_| ConfigError::new("hash_function", function, "use XX_HASH"))
}

/// The sizes of a ring: at most eight million entries, at least one, and not fewer than there must be (gRFC A42).
fn refuse_bad_ring(minimum: Option<UInt64Value>, maximum: Option<UInt64Value>) -> Result<(), ConfigError> {
    const LARGEST: u64 = 8 * 1024 * 1024;
    const REMEDY: &str = "give a size from 1 to 8388608";
    let (minimum, maximum) = (minimum.map_or(1024, |size| size.value), maximum.map_or(LARGEST, |size| size.value));
    for (field, size) in [("minimum_ring_size", minimum), ("maximum_ring_size", maximum)] {
        if !(1..=LARGEST).contains(&size) {
            return Err(ConfigError::new(field, size, REMEDY));
        }
    }
    if minimum > maximum {
        return Err(ConfigError::new("minimum_ring_size", minimum, "give at most maximum_ring_size"));
    }
    Ok(())
}

fn known(extension: &Any, depth: usize, notes: &mut Notes) -> Result<Option<Choice>, ConfigError> {
    if is::<RoundRobin>(extension) {
        let config: RoundRobin = unpack(extension)?;
        warn_if_set!(notes, config, "new endpoints take their full share at once", [slow_start_config]);
        return Ok(Some((LoadBalancing::RoundRobin, weighted(config.locality_lb_config.as_ref(), notes))));
    }
    if is::<LeastRequest>(extension) {
        let config: LeastRequest = unpack(extension)?;
        warn_if_set!(
            notes,
            config,
            "endpoints are picked as without it",
            [active_request_bias, slow_start_config, selection_method]
        );
        let policy = least_request(config.choice_count, notes)?;
        return Ok(Some((policy, weighted(config.locality_lb_config.as_ref(), notes))));
    }
    if is::<Random>(extension) {
        let config: Random = unpack(extension)?;
        return Ok(Some((LoadBalancing::Random, weighted(config.locality_lb_config.as_ref(), notes))));
    }
    if is::<WrrLocality>(extension) {
        let config: WrrLocality = unpack(extension)?;
        let within = notes.required("endpoint_picking_policy", config.endpoint_picking_policy, |list, notes| {
            first_known(&list, depth + 1, notes)
        })?;
        return Ok(Some((within.0, Some(true))));
    }
    Ok(None)
}

fn weighted(message: Option<&LocalityLbConfig>, notes: &mut Notes) -> Option<bool> {
    match message?.locality_config_specifier {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => Some(true),
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            notes.warn("locality_lb_config.zone_aware_lb_config", "no zone is preferred");
            None
        }
        None => None,
    }
}
