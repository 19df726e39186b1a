//! What a further interface costs: MIF_ADD_INTERFACE against CREATE_CHILD_SA for
//! each service, called by `cargo xtask bench mif`. Both engines run in one thread,
//! the time is that of both ends on one core, the least of several runs.

#![expect(clippy::print_stdout, reason = "the table is the purpose")]

use mifsec_tests::sim::services::{Way, further_interface};

/// How often each is measured.
const RUNS: usize = 25;

fn main() {
    println!(
        "{:>8}  {:<32} {:>9} {:>9} {:>12}",
        "services", "how", "datagrams", "octets", "CPU us"
    );
    let ways = [
        (Way::Derive, "MIF_ADD_INTERFACE"),
        (Way::DerivePfs, "MIF_ADD_INTERFACE, key exchange"),
        (Way::Create, "CREATE_CHILD_SA each"),
    ];
    for count in [1, 10, 200] {
        for (way, name) in ways {
            let least = (0..RUNS)
                .map(|_| further_interface(count, way))
                .min_by_key(|cost| cost.time);
            if let Some(cost) = least {
                println!(
                    "{count:>8}  {name:<32} {:>9} {:>9} {:>12.1}",
                    cost.datagrams,
                    cost.octets,
                    cost.time.as_secs_f64() * 1e6
                );
            }
        }
    }
}
