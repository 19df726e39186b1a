//! The guest of `cargo xtask vm`: a kernel of its own, with what the kernels that
//! tests otherwise run on may lack (netem, ESP), and nobody else on it.

/// Why a test of this kind cannot run here, if it cannot.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let guest = std::env::var_os("MIFSEC_VM").is_some();
    (!guest).then_some("runs in the VM: `cargo xtask vm`")
}

/// The first two numbers of the guest's kernel; zeros outside of it.
#[must_use]
pub fn release() -> (u32, u32) {
    let release = std::env::var("MIFSEC_VM").unwrap_or_default();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next())
}
