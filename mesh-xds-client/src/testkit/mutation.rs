//! Damage to protobuf that gets past its surface: fields that are cut, doubled, moved, replaced or mistyped at any depth.
//!
//! Bits flipped at random in an encoded message mostly break the first length that they meet, and a decoder gives up there. So
//! the message is taken apart as the wire format allows without its schema, one field of it is changed, and the lengths around
//! it are written anew; now and then they are not, or the bytes are simply scrambled.

use mesh_core::Dice;

use crate::ResourceKind;

/// Mutations of encoded protobuf messages, one after another, from a seed: the same seed makes the same ones.
///
/// ```
/// use mesh_xds_client::testkit::{Mutations, resource};
/// use prost::Message;
///
/// let good = resource::cluster("v1").encode_to_vec();
/// let (mut one, mut other) = (Mutations::new(7), Mutations::new(7));
/// assert_eq!(one.of(&good), other.of(&good));
/// ```
#[derive(Debug, Clone)]
pub struct Mutations {
    dice: Dice,
}

/// One field of a message, as it stands in the bytes.
#[derive(Debug, Clone, Copy)]
struct Field<'a> {
    number: u64,
    wire_type: u8,
    /// What follows the key, without the length where there is one.
    payload: &'a [u8],
}

const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const DELIMITED: u8 = 2;
const FOUR_BYTES: u8 = 5;

/// A message may be nested as deep as prost goes, and a little deeper.
const DEEPEST: usize = 110;

/// How many times a field is repeated at most.
const REPEATED: u32 = 40;

/// What varints are changed to: ends of ranges, of what fits in them, and of what may be added to them.
const NUMBERS: [u64; 10] =
    [0, 1, 2, 127, 65_536, i32::MAX as u64, u32::MAX as u64, i64::MAX as u64, i64::MIN as u64, u64::MAX];

// === impl Mutations ===

impl Mutations {
    /// Those of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed) }
    }

    /// The next mutation of `message`. It may happen to change nothing, or to be as valid as it was.
    pub fn of(&mut self, message: &[u8]) -> Vec<u8> {
        if self.one_in(12) { self.scrambled(message) } else { self.changed(message, 0) }
    }

    /// `message` with one of its fields changed, at this depth or deeper.
    fn changed(&mut self, message: &[u8], depth: usize) -> Vec<u8> {
        let Some(mut all) = fields(message).filter(|all| !all.is_empty()) else { return self.scrambled(message) };
        let chosen = self.index(all.len());
        let field = all[chosen];
        let is_message = field.wire_type == DELIMITED && fields(field.payload).is_some_and(|inner| !inner.is_empty());
        if is_message && depth < DEEPEST && !self.one_in(3) {
            let inner = self.changed(field.payload, depth + 1);
            return self.framed(&all, chosen, &inner);
        }
        let other = self.index(all.len());
        match self.dice.below(9) {
            0 => drop(all.remove(chosen)),
            1 => all.swap(chosen, other),
            2 => all.insert(other, field),
            3 => all.extend((0..self.dice.below(REPEATED)).map(|_| field)),
            4 => all[chosen].number = u64::from(1 + self.dice.below(60)),
            5 => all[chosen].wire_type = self.dice.below(8) as u8,
            6 => all[chosen] = Field { number: field.number, ..all[other] },
            _ => {
                let payload = self.other_value(field);
                return self.framed(&all, chosen, &payload);
            }
        }
        let mut out = Vec::with_capacity(message.len() + 16);
        all.iter().for_each(|field| field.write(&mut out));
        out
    }

    /// The fields, with this payload for the chosen one, and rarely with a length that is not its.
    fn framed(&mut self, all: &[Field<'_>], chosen: usize, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, field) in all.iter().enumerate() {
            if index != chosen {
                field.write(&mut out);
                continue;
            }
            let changed = Field { payload, ..*field };
            if field.wire_type == DELIMITED && self.one_in(40) {
                put_varint(&mut out, changed.key());
                put_varint(&mut out, self.wrong_length(payload.len()));
                out.extend_from_slice(payload);
            } else {
                changed.write(&mut out);
            }
        }
        out
    }

    fn wrong_length(&mut self, length: usize) -> u64 {
        let length = length as u64;
        [length + 1, length.saturating_sub(1), u64::from(u32::MAX), i64::MAX as u64, u64::MAX][self.index(5)]
    }

    /// Another payload for a field.
    fn other_value(&mut self, field: Field<'_>) -> Vec<u8> {
        match field.wire_type {
            VARINT => {
                let mut out = Vec::new();
                put_varint(&mut out, NUMBERS[self.index(NUMBERS.len())]);
                out
            }
            DELIMITED => self.other_text(field.payload),
            _ => match self.dice.below(3) {
                0 => vec![0; field.payload.len()],
                1 => f64::NAN.to_le_bytes()[8 - field.payload.len()..].to_vec(),
                _ => self.scrambled(field.payload),
            },
        }
    }

    fn other_text(&mut self, payload: &[u8]) -> Vec<u8> {
        let is_type = payload.starts_with(b"type.googleapis.com/");
        match self.dice.below(6) {
            _ if is_type && !self.one_in(4) => {
                ResourceKind::ALL[self.index(ResourceKind::ALL.len())].type_url().as_bytes().to_vec()
            }
            0 => Vec::new(),
            1 => payload[..self.index(payload.len() + 1)].to_vec(),
            2 => payload.repeat(1 + self.dice.below(REPEATED) as usize),
            // No UTF-8.
            3 => vec![0xff; payload.len().max(1)],
            _ => self.scrambled(payload),
        }
    }

    /// Bits flipped, bytes overwritten, put in or cut off, whatever they mean.
    fn scrambled(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.dice.below(3) {
            let place = self.index(out.len().max(1));
            let byte = self.dice.roll() as u8;
            match (self.dice.below(5), out.get_mut(place)) {
                (0, _) => out.insert(place.min(out.len()), byte),
                (1, _) => out.truncate(place),
                (2, Some(old)) => *old = byte,
                (_, Some(old)) => *old ^= 1 << (byte % 8),
                (_, None) => out.push(byte),
            }
        }
        out
    }

    fn one_in(&mut self, sides: u32) -> bool {
        self.dice.below(sides) == 0
    }

    fn index(&mut self, length: usize) -> usize {
        self.dice.below(u32::try_from(length).unwrap_or(u32::MAX)) as usize
    }
}

// === impl Field ===

impl Field<'_> {
    fn key(&self) -> u64 {
        self.number << 3 | u64::from(self.wire_type)
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.key());
        if self.wire_type == DELIMITED {
            put_varint(out, self.payload.len() as u64);
        }
        out.extend_from_slice(self.payload);
    }
}

/// The fields of a message, or none where the bytes are not one.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let (number, wire_type) = (key >> 3, (key & 7) as u8);
        let length = match wire_type {
            VARINT => {
                let mut rest = bytes;
                take_varint(&mut rest)?;
                bytes.len() - rest.len()
            }
            EIGHT_BYTES => 8,
            DELIMITED => usize::try_from(take_varint(&mut bytes)?).ok()?,
            FOUR_BYTES => 4,
            _ => return None,
        };
        if number == 0 {
            return None;
        }
        let (payload, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        all.push(Field { number, wire_type, payload });
    }
    Some(all)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use prost::Message;

    use super::*;
    use crate::testkit::resource;

    fn sample() -> ClusterLoadAssignment {
        resource::endpoints("a cluster", [1, 2, 3].map(|port| SocketAddr::from(([10, 0, 0, 1], port))))
    }

    #[test]
    fn a_message_taken_apart_and_written_again_is_the_same() {
        let bytes = sample().encode_to_vec();
        let mut again = Vec::new();
        fields(&bytes).expect("a message").iter().for_each(|field| field.write(&mut again));
        assert_eq!(again, bytes);
    }

    #[test]
    fn most_mutations_are_other_messages_and_some_are_none() {
        let good = sample();
        let bytes = good.encode_to_vec();
        let mut mutations = Mutations::new(1);
        let read: Vec<_> = (0..1000).map(|_| ClusterLoadAssignment::decode(&*mutations.of(&bytes))).collect();
        let others = read.iter().flatten().filter(|message| **message != good).count();
        let broken = read.iter().filter(|message| message.is_err()).count();
        assert!(others > 400 && broken > 100, "{others} others, {broken} broken");
        let ports = read.iter().flatten().filter(|message| message.cluster_name == "a cluster" && **message != good);
        assert!(ports.count() > 200, "deep inside as well");
    }

    #[test]
    fn anything_can_be_mutated_over_and_over() {
        let mut mutations = Mutations::new(1);
        let mut bytes = sample().encode_to_vec();
        for _ in 0..10_000 {
            bytes = mutations.of(&bytes);
            bytes.truncate(4096);
        }
        assert_eq!(Mutations::new(1).of(&[]), Mutations::new(1).of(&[]));
    }
}
