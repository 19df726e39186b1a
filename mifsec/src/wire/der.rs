//! DER (X.690) as far as certificates, keys and names need it: single-octet
//! tags, definite lengths in their shortest form.

use super::{Reader, Writer};

/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// NULL.
pub const NULL: u8 = 0x05;
/// OBJECT IDENTIFIER.
pub const OID: u8 = 0x06;
/// BOOLEAN.
pub const BOOLEAN: u8 = 0x01;

/// Not the DER it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the DER it should be")]
pub struct BadDer;

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its tag.
    pub tag: u8,
    /// What is in it.
    pub contents: &'a [u8],
    /// All of it, tag and length included.
    pub whole: &'a [u8],
}

/// Reads one element after the other.
#[derive(Debug, Clone, Copy)]
pub struct Der<'a>(Reader<'a>);

impl<'a> Der<'a> {
    /// Starts at the first octet of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(Reader::new(bytes))
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.0.rest().first().copied()
    }

    /// The next element, whatever it is.
    ///
    /// # Errors
    /// [`BadDer`].
    pub fn any(&mut self) -> Result<Element<'a>, BadDer> {
        let all = self.0.rest();
        let mut reader = self.0;
        let tag = reader.u8().map_err(|_| BadDer)?;
        if tag & 0x1f == 0x1f {
            return Err(BadDer);
        }
        let length = length(&mut reader)?;
        let contents = reader.bytes(length).map_err(|_| BadDer)?;
        let whole = all.get(..all.len() - reader.len()).ok_or(BadDer)?;
        self.0 = reader;
        Ok(Element {
            tag,
            contents,
            whole,
        })
    }

    /// The contents of the next element, which must have this tag.
    ///
    /// # Errors
    /// [`BadDer`].
    pub fn expect(&mut self, tag: u8) -> Result<&'a [u8], BadDer> {
        let element = self.any()?;
        (element.tag == tag)
            .then_some(element.contents)
            .ok_or(BadDer)
    }

    /// What is in the next element, which must have this tag.
    ///
    /// # Errors
    /// [`BadDer`].
    pub fn enter(&mut self, tag: u8) -> Result<Self, BadDer> {
        self.expect(tag).map(Self::new)
    }

    /// The contents of the next element if it has this tag.
    ///
    /// # Errors
    /// [`BadDer`].
    pub fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, BadDer> {
        if self.peek() == Some(tag) {
            self.expect(tag).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Fails when something is left.
    ///
    /// # Errors
    /// [`BadDer`].
    pub fn end(&self) -> Result<(), BadDer> {
        self.is_empty().then_some(()).ok_or(BadDer)
    }

    /// The contents of the only element of `bytes`, which must have this tag.
    ///
    /// # Errors
    /// [`BadDer`].
    pub fn only(bytes: &'a [u8], tag: u8) -> Result<Self, BadDer> {
        let mut der = Self::new(bytes);
        let inner = der.enter(tag)?;
        der.end()?;
        Ok(inner)
    }
}

fn length(reader: &mut Reader<'_>) -> Result<usize, BadDer> {
    let first = usize::from(reader.u8().map_err(|_| BadDer)?);
    if first < 0x80 {
        return Ok(first);
    }
    let octets = reader.bytes(first & 0x7f).map_err(|_| BadDer)?;
    // Four gigabytes are nobody's certificate.
    if octets.is_empty() || octets.len() > 3 || octets.first() == Some(&0) {
        return Err(BadDer);
    }
    let length = octets
        .iter()
        .fold(0, |length, octet| length << 8 | usize::from(*octet));
    (length >= 0x80).then_some(length).ok_or(BadDer)
}

/// An element with `contents` one after the other.
///
/// # Panics
/// For contents above 16 MiB.
#[must_use]
pub fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("what we encode is small");
    assert!(length < 1 << 24, "what we encode is small");
    let mut out = Writer::new();
    out.u8(tag);
    let octets = length.to_be_bytes();
    match octets {
        [_, 0, 0, short @ 0..=0x7f] => {
            out.u8(short);
        }
        [_, 0, 0, one] => {
            out.u8(0x81).u8(one);
        }
        [_, 0, two, one] => {
            out.u8(0x82).u8(two).u8(one);
        }
        [_, three, two, one] => {
            out.u8(0x83).u8(three).u8(two).u8(one);
        }
    }
    for part in contents {
        out.bytes(part);
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_have_one_form_only() {
        let read = |bytes: &[u8]| Der::new(bytes).any().map(|e| e.contents.len());
        assert_eq!(read(&[4, 1, 9]), Ok(1));
        assert_eq!(read(&[4, 0x81, 1, 9]), Err(BadDer), "too long a form");
        assert_eq!(read(&[4, 0x80, 9, 0, 0]), Err(BadDer), "indefinite");
        assert_eq!(read(&[4, 2, 9]), Err(BadDer), "cut");
        assert_eq!(read(&[0x1f, 1, 9]), Err(BadDer), "a tag of several octets");
        assert_eq!(read(&[4, 0x84, 0, 0, 0, 1, 9]), Err(BadDer));
        assert_eq!(read(&[]), Err(BadDer));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_itself(
            length in prop_oneof![0..300usize, Just(65_535), Just(65_536)],
        ) {
            let contents = vec![7; length];
            let bytes = element(OCTET_STRING, &[&contents]);
            let mut der = Der::new(&bytes);
            let read = der.any().unwrap();
            prop_assert_eq!((read.tag, read.contents, read.whole), (OCTET_STRING, &contents[..], &bytes[..]));
            prop_assert!(der.end().is_ok());
            prop_assert!(Der::new(&bytes[..bytes.len() - 1]).any().is_err());
        }

        #[test]
        fn random_octets_never_panic(bytes in any::<Vec<u8>>()) {
            let mut der = Der::new(&bytes);
            while der.any().is_ok() {}
        }
    }
}
