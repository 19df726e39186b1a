//! A growing buffer of octets to send.

/// Appends big-endian fields; lengths can be filled in afterwards.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Octets written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends `bytes`.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends one octet.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Appends two octets.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends four octets.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends eight octets.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Reserves a 16-bit length field, lets `body` write, then stores in it the
    /// octets written since `start` (an earlier [`len`](Self::len)).
    ///
    /// # Panics
    /// When what we built ourselves exceeds 65,535 octets.
    pub fn length16(&mut self, start: usize, body: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.0.len();
        self.u16(0);
        body(self);
        let length = u16::try_from(self.0.len() - start).expect("our own element fits 16 bits");
        self.0[at..at + 2].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// The octets.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// The octets so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}
