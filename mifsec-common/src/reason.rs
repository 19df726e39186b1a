//! Why a program did what it did. One counter each, in `REASONS`.

/// Index into `REASONS`. The values are part of the ABI: append only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Reason(pub u32);

macro_rules! reasons {
    ($($(#[$doc:meta])* $konst:ident = $value:literal, $name:literal;)*) => {
        impl Reason {
            $($(#[$doc])* pub const $konst: Self = Self($value);)*

            /// All reasons, in order of value.
            pub const ALL: &'static [Self] = &[$(Self::$konst),*];

            /// The name shown to people and used in reports; unknown values have one too.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$konst => $name,)*
                    _ => "unknown",
                }
            }
        }
    };
}

reasons! {
    /// Anchor: not from a socket of the agent; dropped.
    FOREIGN = 0, "foreign";
    /// Anchor: not ESP, or not readable; dropped.
    EGRESS_MALFORMED = 1, "egress_malformed";
    /// Anchor: no SA with this anchor and SPI; dropped.
    NO_SA = 2, "no_sa";
    /// Anchor: neither home nor alternate is up; dropped.
    NO_PATH = 3, "no_path";
    /// Anchor: larger than the path's MTU; dropped.
    MTU = 4, "mtu";
    /// Anchor: a helper refused the rewrite; dropped.
    REWRITE = 5, "rewrite";
    /// Anchor: left by an alternate because the home was not up.
    DIVERTED = 6, "diverted";
    /// Ingress: unknown SPI on a port of ours; dropped.
    UNKNOWN_SPI = 7, "unknown_spi";
    /// Ingress: a GRO packet whose first SPI is unknown, counted by segments; passed.
    UNKNOWN_SPI_GRO = 8, "unknown_spi_gro";
    /// Ingress: native ESP with an unknown SPI; passed, dropped when `exclusive`.
    UNKNOWN_ESP = 9, "unknown_esp";
    /// Ingress: too short to hold what it should; passed to the stack.
    INGRESS_TRUNCATED = 10, "ingress_truncated";
    /// Ingress: known SPI from an address that is no path; passed.
    NEW_SOURCE = 11, "new_source";
    /// Ingress: IKE_SA_INIT beyond the limit of all sources; dropped.
    IKE_LIMIT_ALL = 12, "ike_limit_all";
    /// Ingress: IKE_SA_INIT beyond the limit of its source; dropped.
    IKE_LIMIT = 13, "ike_limit";
    /// Guard: protected traffic leaving in clear; dropped.
    CLEAR_OUT = 14, "clear_out";
    /// Guard: protected traffic arriving in clear; dropped.
    CLEAR_IN = 15, "clear_in";
    /// Guard: a non-initial fragment that could be protected; dropped.
    CLEAR_FRAGMENT = 16, "clear_fragment";
    /// Guard: a DISCARD rule; dropped.
    DISCARD = 17, "discard";
    /// Guard: an unreadable IP header; dropped.
    GUARD_MALFORMED = 18, "guard_malformed";
    /// Events not reported because of their rate or a full ring buffer.
    EVENT_LOST = 19, "event_lost";
}

/// Number of reasons.
pub const REASONS: u32 = 20;

const _: () = assert!(Reason::ALL.len() == REASONS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_their_positions_and_names_are_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.0 as usize, i);
            assert_eq!(
                Reason::ALL
                    .iter()
                    .filter(|r| r.name() == reason.name())
                    .count(),
                1
            );
        }
        assert_eq!(Reason(REASONS).name(), "unknown");
    }
}
