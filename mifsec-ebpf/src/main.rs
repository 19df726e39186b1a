//! The programs: entry points that fetch, ask the library, and act.
//!
//! On the host this is an empty binary, so that the workspace builds and lints
//! as a whole; the object is built by `mifsec/build.rs`.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod maps;
mod packet;
mod programs;
mod world;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: code that can panic is refused by the verifier.
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
