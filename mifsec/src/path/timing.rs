//! The engine's numbers. Tests name these, not their values.

use std::time::Duration;

use super::types::Probing;

/// Time to the second challenge of an address; each further gap doubles.
/// With a round-trip estimate above it, that is used instead.
pub const CHALLENGE_FIRST: Duration = Duration::from_millis(100);
/// The longest gap between two challenges of one attempt.
pub const CHALLENGE_GAP_MAX: Duration = Duration::from_secs(2);
/// Challenges to an address before it counts as failed.
pub const CHALLENGE_LIMIT: u32 = 8;
/// Between single challenges to a failed address of a home pair.
pub const FAILED_PAUSE_HOME: Duration = Duration::from_secs(15);
/// Between single challenges to a failed address of any other pair.
pub const FAILED_PAUSE: Duration = Duration::from_secs(60);
/// How long a validation that is not in use stays good.
pub const VALIDATION_LIFETIME: Duration = Duration::from_secs(10);

/// Octets sent to an address that is not validated, per octet received from it.
pub const AMPLIFICATION: u64 = 3;
/// Octets of probes that may go, besides, from one interface to an address the
/// peer announced in a protected message; it grows back by a probe each [`REFILL`].
pub const ANNOUNCED_ALLOWANCE: u64 = CHALLENGE_LIMIT as u64 * super::probe::PROBE_LEN as u64;
/// See [`ANNOUNCED_ALLOWANCE`].
pub const REFILL: Duration = Duration::from_secs(5);
/// Replies to one peer's challenges in a second; more are dropped.
pub const REPLIES_PER_SECOND: u32 = 500;

/// The least time without an answer to data before a path is questioned.
pub const QUESTION_AFTER: Duration = Duration::from_millis(40);
/// Unanswered probes that take a path down.
pub const UNANSWERED_LIMIT: u32 = 3;
/// What an answer is given, and what data may stay unanswered, while no round
/// trip has been measured (RFC 6298 2.1).
pub const ANSWER_UNKNOWN: Duration = Duration::from_secs(1);
/// The most an answer is given.
pub const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Between probes of a home path while the peer's SAs carry data.
pub const STANDBY_INTERVAL: Duration = Duration::from_secs(1);
/// Between probes of an idle home path, and the longest a NAT is left alone
/// (RFC 3948 section 4).
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long after its last data packet a peer counts as active.
pub const ACTIVE_FOR: Duration = Duration::from_secs(10);

/// Between probes of a path that died, in the first minute.
pub const DOWN_INTERVAL: Duration = Duration::from_secs(1);
/// How long a dead path is probed that often.
pub const DOWN_EAGER_FOR: Duration = Duration::from_secs(60);
/// Between its probes after that.
pub const DOWN_INTERVAL_LATE: Duration = Duration::from_secs(5);
/// Between probes of a path that answers again.
pub const RETURN_INTERVAL: Duration = Duration::from_millis(250);
/// How long a path that died silently must answer every probe to be used again.
pub const RETURN_AFTER: Duration = Duration::from_secs(3);

/// How long packets from an address that was replaced still belong to the path.
pub const GRACE: Duration = Duration::from_secs(5);

/// Addresses remembered for one path, on either side.
pub const MAX_REMOTES: usize = 8;

/// Interfaces of one peer that are looked at, lowest numbers first.
pub const MAX_REMOTE_IFACES: usize = 16;

impl Probing {
    /// Between the probes of a questioned path.
    #[must_use]
    pub const fn question_interval(self) -> Duration {
        match self {
            Self::Default | Self::Idle => Duration::from_millis(25),
            Self::Fast => Duration::from_millis(5),
        }
    }

    /// The least an answer is given.
    #[must_use]
    pub const fn answer_min(self) -> Duration {
        match self {
            Self::Default | Self::Idle => Duration::from_millis(50),
            Self::Fast => Duration::from_millis(10),
        }
    }
}
