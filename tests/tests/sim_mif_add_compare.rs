//! What MIF_ADD_INTERFACE saves (R28, R46, R62): one exchange for all services of a
//! further interface, against one CREATE_CHILD_SA for each.

use mifsec_tests::sim::services::{Way, further_interface};

#[test]
fn one_exchange_takes_less_than_one_for_each_service() {
    mifsec_tests::covers!("R28", "R46", "R62");
    for count in [1, 10, 200] {
        let derived = further_interface(count, Way::Derive);
        let pfs = further_interface(count, Way::DerivePfs);
        let created = further_interface(count, Way::Create);
        assert_eq!([derived, pfs, created].map(|cost| cost.created), [count; 3]);
        assert_eq!(created.datagrams, 2 * count, "two for each service");
        // 20 octets for each service and direction, in packets of 1280 at most.
        let fragments = (20 * count).div_ceil(1100);
        assert!(
            derived.datagrams <= 2 * fragments + 2,
            "{count}: {derived:?}"
        );
        assert!(
            derived.octets < created.octets,
            "{count}: {derived:?} {created:?}"
        );
        assert!(
            pfs.octets < derived.octets + 2 * 40,
            "a public value each way"
        );
        if count > 1 {
            assert!(
                derived.octets * 3 < created.octets,
                "{derived:?} {created:?}"
            );
            assert!(derived.datagrams < created.datagrams);
        }
    }
}
