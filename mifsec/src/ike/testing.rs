//! What the tests of several codecs need.

pub(crate) use crate::crypto::testing::{hex, unhex};
