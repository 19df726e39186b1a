//! The guest of `cargo xtask vm`: a kernel of its own, with what the kernels that
//! tests otherwise run on may lack (netem, ESP), and nobody else on it.

/// Why a test of this kind cannot run here, if it cannot.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let guest = std::env::var_os("MIFSEC_VM").is_some();
    (!guest).then_some("runs in the VM: `cargo xtask vm`")
}
