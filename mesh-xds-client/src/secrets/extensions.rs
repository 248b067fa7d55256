//! Finds what may be a `google.protobuf.Any` in the bytes of a message, at whatever depth and without a schema.
//!
//! Whatever stands before a slash in its URL, a decoder goes by what comes after it, and so does this. A message with a
//! schema is the same bytes to who has none: a field with a length is looked into where its contents can be read as fields in
//! their turn. An `Any` is then what has a text as its field 1 that ends in the name of a message, bytes as its field 2, and no
//! other field. Names of messages are known by their last part, which begins with a capital, and stand after a slash or have a
//! dot in them; of an extension that is called otherwise, by a URL of its own too, nothing is found here.
//!
//! A byte that tells a number or a length is in nothing that is looked into, and so each byte is read in one message alone,
//! however deep they stand in each other.

use prost::encoding::decode_varint;

use super::TYPE_URL;

/// An `Any`, or what looks like one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extension<'a> {
    /// Whether its URL is as those of almost all are.
    pub(super) is_usual: bool,
    /// What the URL ends with.
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

/// What is found, and how much may still be read.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) found: Vec<Extension<'a>>,
    /// How many more steps are made: one for a field, or for a byte of a message that is decoded.
    pub(super) left: usize,
}

/// The bytes are not those of a message, or there are too many in each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Far more than is needed: two steps for a field, which has two bytes, and some messages that are decoded, some within others.
pub(super) const STEPS_PER_BYTE: usize = 8;

/// How deep messages may be in each other. Prost reads no more of them, from one `Any` to the next.
const DEEPEST: usize = 100;

/// The fields of a message, and at last None if it is none.
struct Fields<'a>(&'a [u8]);

struct Field<'a> {
    number: u64,
    /// Of one with a length.
    contents: Option<&'a [u8]>,
}

// === impl Search ===

impl<'a> Search<'a> {
    /// Looks through a message, which is itself no `Any`.
    pub(super) fn through(message: &'a [u8]) -> Result<Self, Unreadable> {
        let mut search = Self { found: Vec::new(), left: message.len().saturating_mul(STEPS_PER_BYTE) };
        if !search.is_message(message)? {
            return Err(Unreadable);
        }
        search.look_into_fields(message, 0)?;
        Ok(search)
    }

    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Unreadable> {
        self.left = self.left.checked_sub(steps).ok_or(Unreadable)?;
        Ok(())
    }

    fn look_into(&mut self, contents: &'a [u8], depth: usize) -> Result<(), Unreadable> {
        if contents.is_empty() || !self.is_message(contents)? {
            return Ok(());
        }
        if depth == DEEPEST {
            return Err(Unreadable);
        }
        self.found.extend(Extension::read(contents));
        self.look_into_fields(contents, depth)
    }

    fn look_into_fields(&mut self, message: &'a [u8], depth: usize) -> Result<(), Unreadable> {
        for contents in Fields(message).flatten().filter_map(|field| field.contents) {
            self.look_into(contents, depth + 1)?;
        }
        Ok(())
    }

    fn is_message(&mut self, bytes: &[u8]) -> Result<bool, Unreadable> {
        for field in Fields(bytes) {
            // It is read once more if it is one.
            self.spend(2)?;
            if field.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

// === impl Extension ===

impl<'a> Extension<'a> {
    /// A message as an `Any`, if it may be one.
    fn read(message: &'a [u8]) -> Option<Self> {
        let (mut url, mut value) = (None, None);
        for field in Fields(message) {
            match field? {
                Field { number: 1, contents } => url = Some(contents?),
                Field { number: 2, contents } => value = Some(contents?),
                _ => return None,
            }
        }
        let url = std::str::from_utf8(url?).ok()?;
        let (prefix, name) = url.split_at(url.rfind('/').map_or(0, |slash| slash + 1));
        let is_usual = prefix.as_bytes().ends_with(TYPE_URL);
        let is_it = is_usual || value.is_some() && !url.contains(char::is_control) && is_of_message(prefix, name);
        is_it.then_some(Self { is_usual, name: name.as_bytes(), value: value.unwrap_or_default() })
    }
}

/// Whether a text that ends so means a message.
fn is_of_message(prefix: &str, name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    last.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|byte| super::is_of_name(&byte))
        && (!prefix.is_empty() || last.len() < name.len())
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<Field<'a>> {
        let tag = decode_varint(&mut self.0).ok()?;
        let number = Some(tag >> 3).filter(|number| *number > 0)?;
        let length = match tag & 7 {
            0 => return decode_varint(&mut self.0).ok().map(|_| Field { number, contents: None }),
            1 => 8,
            2 => usize::try_from(decode_varint(&mut self.0).ok()?).ok()?,
            // A group has its fields between two of these, and they are read as if they were not in it.
            3 | 4 => 0,
            5 => 4,
            _ => return None,
        };
        let (contents, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Field { number, contents: (tag & 7 == 2).then_some(contents) })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with a length.
    fn field(number: u8, contents: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        prost::encoding::encode_varint(contents.len() as u64, &mut field);
        field.extend_from_slice(contents);
        field
    }

    fn any(url: &str) -> Vec<u8> {
        [field(1, url.as_bytes()), field(2, &[8, 1])].concat()
    }

    fn names(message: &[u8]) -> Vec<String> {
        let found = Search::through(message).expect("readable").found;
        found.iter().map(|extension| String::from_utf8_lossy(extension.name).into_owned()).collect()
    }

    #[test]
    fn any_is_known_by_whatever_url_and_at_whatever_depth() {
        for url in ["acme.dev/acme.v1.Own", "x/acme.v1.Own", "/acme.v1.Own", "a/b c/acme.v1.Own", "acme.v1.Own"] {
            assert_eq!(names(&field(4, &any(url))), ["acme.v1.Own"], "{url}");
            let deep = (0..20).fold(any(url), |inner, _| field(3, &inner));
            assert_eq!(names(&deep), ["acme.v1.Own"], "{url}");
        }
        let backwards = [field(2, &[8, 1]), field(1, b"x/Own")].concat();
        assert_eq!(names(&field(4, &backwards)), ["Own"]);
        let in_a_group = [vec![0x2b], field(4, &any("x/Own")), vec![0x2c]].concat();
        assert_eq!(names(&field(4, &in_a_group)), ["Own"]);
    }

    #[test]
    fn what_only_resembles_an_any_is_none() {
        let route = [field(1, &field(1, b"/Own")), field(2, &[8, 1])].concat();
        let call = [field(1, &field(2, b"/acme.v1.Own/Call")), field(2, &field(1, b"v1"))].concat();
        let label = any("app.kubernetes.io/name");
        let file = any("file-root:/etc/certs/ca.pem");
        let host = [field(1, b"acme.v1.Own"), field(2, b"*"), field(3, &field(1, b"r"))].concat();
        for message in [route, call, label, file, host, any("echo"), any("Own"), field(1, b"x/acme.v1.Own")] {
            assert_eq!(names(&field(4, &message)), [""; 0], "{message:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_is_too_deep_is_told() {
        assert_eq!(Search::through(&[0x0a, 2, b'a']).err(), Some(Unreadable));
        let deep = |depth: usize| (0..depth).fold(any("x/Own"), |inner, _| field(3, &inner));
        // Its value is the deepest of all.
        assert_eq!(names(&deep(DEEPEST - 2)), ["Own"]);
        assert_eq!(Search::through(&deep(DEEPEST - 1)).err(), Some(Unreadable));
    }
}
