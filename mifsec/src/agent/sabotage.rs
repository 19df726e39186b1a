//! Deliberate faults, so that the lab can show that it would notice them. Only
//! with the cargo feature `sabotage`; without it all are off and nothing reads
//! the environment.

/// Which faults are on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sabotage {
    /// A path's entry is written once and never replaced.
    pub(super) no_flip: bool,
    /// Nobody is told of changes after the first peer stands.
    pub(super) no_update: bool,
    /// The programs keep nothing from leaving in clear; the routes still do.
    pub(super) no_guard: bool,
}

impl Sabotage {
    #[cfg(feature = "sabotage")]
    pub(super) fn from_environment() -> Self {
        let value = std::env::var("MIFSEC_SABOTAGE").unwrap_or_default();
        let on = |name: &str| value.split(',').any(|v| v == name);
        let out = Self {
            no_flip: on("no-flip"),
            no_update: on("no-update"),
            no_guard: on("no-guard"),
        };
        tracing::warn!(?out, "built for sabotage");
        out
    }

    #[cfg(not(feature = "sabotage"))]
    pub(super) fn from_environment() -> Self {
        Self::default()
    }
}
