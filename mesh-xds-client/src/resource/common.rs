//! The small messages that every resource is made of: durations, percentages, names, extensions, sources.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{ConfigSource, config_source::ConfigSourceSpecifier},
        r#type::v3 as types,
    },
    google::protobuf as wire,
};
use http::{HeaderName, HeaderValue, StatusCode};
use mesh_core::config::{ConfigError, Fraction, Percent, TimeLimit};
use prost::{Message, Name};

use super::notes::Notes;

/// The longest duration that protobuf allows, about 10,000 years.
const LONGEST_SECONDS: u64 = 315_576_000_000;

/// A duration, which is not negative.
pub(super) fn duration(field: &'static str, message: Option<wire::Duration>) -> Result<Option<Duration>, ConfigError> {
    let Some(wire::Duration { seconds, nanos }) = message else {
        return Ok(None);
    };
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(whole @ ..=LONGEST_SECONDS), Ok(part @ ..1_000_000_000)) => Ok(Some(Duration::new(whole, part))),
        _ => {
            let value = format!("{seconds} s and {nanos} ns");
            Err(ConfigError::new(field, value, "give 0 to 315576000000 seconds and 0 to 999999999 nanoseconds"))
        }
    }
}

/// A duration above zero.
pub(super) fn positive(field: &'static str, message: Option<wire::Duration>) -> Result<Option<Duration>, ConfigError> {
    match duration(field, message)? {
        Some(Duration::ZERO) => Err(ConfigError::new(field, "0s", "give a duration above zero")),
        other => Ok(other),
    }
}

/// A time limit, off where it is zero.
pub(super) fn limit(field: &'static str, message: Option<wire::Duration>) -> Result<Option<TimeLimit>, ConfigError> {
    Ok(duration(field, message)?.map(TimeLimit::zero_is_off))
}

/// A percentage.
pub(super) fn percent(field: &'static str, message: Option<types::Percent>) -> Result<Option<Percent>, ConfigError> {
    message.map(|percent| Percent::new(percent.value).map_err(|error| told_as(field, &error))).transpose()
}

/// A percentage in a whole number.
pub(super) fn whole_percent(
    field: &'static str,
    message: Option<wire::UInt32Value>,
) -> Result<Option<Percent>, ConfigError> {
    percent(field, message.map(|whole| types::Percent { value: f64::from(whole.value) }))
}

/// A share with its denominator.
pub(super) fn fraction(field: &'static str, message: types::FractionalPercent) -> Result<Fraction, ConfigError> {
    use types::fractional_percent::DenominatorType;
    let denominator = match DenominatorType::try_from(message.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => {
            let remedy = "use HUNDRED, TEN_THOUSAND or MILLION";
            return Err(ConfigError::new("denominator", message.denominator, remedy).within(field));
        }
    };
    Fraction::new(message.numerator, denominator).map_err(|error| error.within(field))
}

/// A value that wraps a number, to tell zero from silence.
pub(super) fn number(message: Option<wire::UInt32Value>) -> Option<u32> {
    message.map(|wrapper| wrapper.value)
}

/// Whether a wrapped boolean says yes.
pub(super) fn is_true(message: Option<wire::BoolValue>) -> bool {
    message.is_some_and(|wrapper| wrapper.value)
}

/// A text that must say something.
pub(super) fn filled(field: &'static str, text: String, remedy: &'static str) -> Result<String, ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::new(field, "", remedy));
    }
    Ok(text)
}

/// A text that is to stand in a request line or header.
pub(super) fn printable(field: &'static str, text: String) -> Result<String, ConfigError> {
    if HeaderValue::from_str(&text).is_err() {
        return Err(ConfigError::new(field, text.escape_debug(), "use visible characters"));
    }
    Ok(text)
}

/// The name of a header, pseudo-headers excluded.
pub(super) fn header_name(field: &'static str, name: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::try_from(name).map_err(|_| ConfigError::new(field, name, "give the name of a header"))
}

/// An HTTP status.
pub(super) fn status(field: &'static str, code: u32) -> Result<StatusCode, ConfigError> {
    u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| ConfigError::new(field, code, "give an HTTP status"))
}

/// The same refusal under the name that the field has on the wire.
pub(super) fn told_as(field: impl Into<String>, error: &ConfigError) -> ConfigError {
    ConfigError::new(field, error.value(), error.remedy().to_owned())
}

/// Whether an extension is an `M`. Only what follows the last `/` of a type URL names the type.
pub(super) fn is<M: Name>(extension: &wire::Any) -> bool {
    let package = message_name(&extension.type_url).strip_suffix(M::NAME).and_then(|package| package.strip_suffix('.'));
    package == Some(M::PACKAGE)
}

/// The full name of the message that a type URL means.
pub(super) fn message_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

/// The message that an extension holds, which must be an `M`.
pub(super) fn unpack<M: Message + Name + Default>(extension: &wire::Any) -> Result<M, ConfigError> {
    if !is::<M>(extension) {
        let remedy = format!("send {}", M::full_name());
        return Err(ConfigError::new("type_url", &extension.type_url, remedy));
    }
    M::decode(extension.value.as_slice()).map_err(|error| undecodable(&error, extension.value.len()))
}

/// Says that bytes are not the message that they should be.
pub(super) fn undecodable(error: &prost::DecodeError, length: usize) -> ConfigError {
    ConfigError::new("value", format!("{length} bytes"), format!("encode the message correctly; {error}"))
}

/// Asks that a referenced resource comes from the control plane that referred to it, over the same stream.
pub(super) fn same_source(
    field: &'static str,
    source: Option<&ConfigSource>,
    notes: &mut Notes,
) -> Result<(), ConfigError> {
    let patience = source.and_then(|source| source.initial_fetch_timeout);
    if duration("initial_fetch_timeout", patience)
        .map_err(|error| error.within(field))?
        .is_some_and(|wait| !wait.is_zero())
    {
        notes.warn(format!("{field}.initial_fetch_timeout"), "it is waited for as long as for any other resource");
    }
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        Some(_) => Err(ConfigError::new(field, "another source", "use `ads` or `self`")),
        None => Err(ConfigError::new(field, "", "set it to `ads` or `self`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seconds: i64, nanos: i32) -> Option<wire::Duration> {
        Some(wire::Duration { seconds, nanos })
    }

    #[test]
    fn durations_that_protobuf_forbids_are_refused() {
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (1, -1), (0, 1_000_000_000), (0, i32::MIN), (i64::MIN, 0), (i64::MAX, 0)]
        {
            let error = duration("timeout", of(seconds, nanos)).expect_err("out of range");
            assert_eq!(error.field(), "timeout");
        }
        assert_eq!(duration("timeout", of(1, 5)).expect("legal"), Some(Duration::new(1, 5)));
    }

    #[test]
    fn unset_zero_and_set_limits_stay_apart() {
        assert_eq!(limit("timeout", None).expect("legal"), None);
        assert_eq!(limit("timeout", of(0, 0)).expect("legal"), Some(TimeLimit::OFF));
        assert!(positive("timeout", of(0, 0)).is_err());
    }

    #[test]
    fn percentages_outside_and_unknown_denominators_are_refused() {
        for value in [-1.0, 101.0, f64::NAN] {
            assert_eq!(percent("p", Some(types::Percent { value })).expect_err("outside").field(), "p");
        }
        let odd = types::FractionalPercent { numerator: 1, denominator: 9 };
        assert_eq!(fraction("p", odd).expect_err("no such denominator").field(), "p.denominator");
    }

    #[test]
    fn type_is_told_by_the_name_after_the_last_slash() {
        let any = |url: &str| wire::Any { type_url: url.to_owned(), value: Vec::new() };
        assert!(is::<wire::Duration>(&any("type.googleapis.com/google.protobuf.Duration")));
        assert!(is::<wire::Duration>(&any("google.protobuf.Duration")));
        assert!(!is::<wire::Duration>(&any("type.googleapis.com/other.google.protobuf.Duration")));
        assert!(!is::<wire::Duration>(&any("type.googleapis.com/google.protobufDuration")));
    }
}
