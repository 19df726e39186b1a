//! The `mifsec` binary: see the library's [`cli`](mifsec::cli).

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    mifsec::cli::main()
}
