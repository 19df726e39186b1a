//! How a test says which requirements it shows.

/// At the start of a test: the rows of the table in `docs/testing.md` that it
/// shows. `cargo xtask test` counts them if the test passes and was not skipped.
#[macro_export]
macro_rules! covers {
    ($($row:literal),+ $(,)?) => {
        ::std::println!("covers: {} in {}", [$($row),+].join(" "), ::std::file!())
    };
}
