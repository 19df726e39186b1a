//! Options of bpf-linker for the object.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Headers lie at odd offsets. Without this every address is loaded octet by
    // octet; the kernels we run on allow it in packets and map values.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        println!("cargo::rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    }
}
