//! The `mifsec` binary: see the library's [`cli`](mifsec::cli).

fn main() -> std::process::ExitCode {
    mifsec::cli::main()
}
