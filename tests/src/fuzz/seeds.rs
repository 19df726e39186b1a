//! Where the corpora begin: messages of a simulated session, golden octets, the
//! configuration of the README. `mifsec-seeds` writes them; keys and nonces
//! differ with each run, so they are written once and committed.

use std::net::IpAddr;

use mifsec::crypto::SignatureAlgorithm;
use mifsec::ids::{IfaceId, Spi};
use mifsec::ike::Command;
use mifsec::ike::message::Ke;
use mifsec::ike::mif::{
    AddFlags, AddInterface, AddMode, Alternates, DeleteFlags, DeleteInterface, DerivedFlags,
    DerivedSa, DerivedSas, Interfaces, Maddr, NONCE_LEN, OuterAddrs, OuterFlags, Supported,
    UpdateAddrs, UpdateFlags,
};

use super::certificate::der;
use crate::pki::{Authority, Key, Request};
use crate::sim::setup::{self, RAN, WLAN, WLAN_ADDRESS, second_member};
use crate::sim::{A, Pair};

/// A seed: the target it is for, its name, its octets.
pub type Seed = (&'static str, String, Vec<u8>);

/// All seeds.
#[must_use]
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    messages(&mut seeds);
    notifies(&mut seeds);
    packets(&mut seeds);
    sessions(&mut seeds);
    fragments(&mut seeds);
    certificates(&mut seeds);
    texts(&mut seeds);
    seeds
}

/// Everything two peers say to each other, in clear and, for `ike_payloads`,
/// what was behind the keys.
fn messages(seeds: &mut Vec<Seed>) {
    let mut pair = talk();
    let log = std::mem::take(&mut pair.log);
    for (n, (_, who, transmit)) in log.iter().enumerate() {
        let Some((header, payloads)) = pair.ends[*who].engine.reveal(&transmit.payload) else {
            continue;
        };
        let name = format!(
            "{n:02}-{}-{}",
            header.exchange.to_string().to_lowercase().replace('_', "-"),
            if header.response {
                "response"
            } else {
                "request"
            }
        );
        let clear = mifsec::ike::message::encode_clear(&header, &payloads);
        let mut chain = vec![u8::from(n % 4 == 3), clear[16]];
        chain.extend(&clear[mifsec::ike::message::HEADER_LEN..]);
        chain.push(0);
        seeds.push(("ike_payloads", name.clone(), chain));
        seeds.push(("ike_message", name.clone(), transmit.payload.clone()));
        if header.exchange != mifsec::ike::message::ExchangeType::IKE_SA_INIT {
            seeds.push(("ike_message", format!("{name}-opened"), clear));
        }
    }
}

/// Handshake, a second member, a move, a liveness check, deletes.
fn talk() -> Pair {
    let mut pair = setup::established(setup::user(), setup::gateway(), 1);
    let ike = pair.a().ike();
    let second = std::time::Duration::from_secs(1);
    let channel = setup::channel(WLAN, WLAN_ADDRESS);
    pair.command(A, second_member(ike));
    pair.run(second);
    pair.command(A, Command::MoveChannel { ike, channel });
    pair.run(second);
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(second);
    let child = pair.a().children.keys().next_back().copied();
    if let Some(child) = child {
        pair.command(A, Command::DeleteChild { child });
    }
    pair.run(second);
    pair
}

fn notifies(seeds: &mut Vec<Seed>) {
    let address = |text: &str| Maddr::new(text.parse::<IpAddr>().expect("an address"), 4500);
    let table = Interfaces {
        epoch: 3,
        records: vec![
            setup::record(WLAN, "192.0.2.10"),
            setup::record(RAN, "2001:db8::20"),
        ],
    };
    let outer = OuterAddrs {
        init_iface: IfaceId(3),
        resp_iface: IfaceId(1),
        flags: OuterFlags::BUNDLE,
        initiator: address("2001:db8::3"),
        responder: address("2001:db8:1::1"),
    };
    let update = UpdateAddrs {
        txn: 7,
        flags: UpdateFlags::TUNNEL.with(UpdateFlags::MAKE_BEFORE_BREAK),
        grace_ms: 500,
        old_iface: IfaceId(3),
        new_iface: IfaceId(4),
        old: address("192.0.2.3"),
        new: address("198.51.100.4"),
    };
    let alternates = Alternates {
        epoch: 4,
        iface: WLAN,
        list: Some(vec![RAN, IfaceId(3)]),
    };
    let add = AddInterface {
        txn: 8,
        flags: AddFlags::BUNDLE,
        iface: IfaceId(3),
        mode: AddMode::TUNNEL,
        inner: vec![address("10.66.0.9"), address("fd66::9")],
        outer: address("192.0.2.140"),
        destination: Some(address("203.0.113.2")),
        from: Some(vec![WLAN, RAN, IfaceId(4)]),
        nonce: vec![7; NONCE_LEN],
        ke: Some(Ke {
            group: 31,
            data: vec![9; 32],
        }),
    };
    let derived = |index, flags, spi| DerivedSa {
        index,
        flags,
        template_init: Spi(0x0102_0304),
        template_resp: Spi(0x0506_0708),
        new_init: Spi(spi),
        new_resp: Spi(0),
    };
    let list = DerivedSas {
        txn: 8,
        entries: vec![
            derived(0, DerivedFlags::default(), 0x1122_3344),
            derived(1, DerivedFlags::SKIPPED_EXISTS, 0),
        ],
    };
    let delete = DeleteInterface {
        txn: 9,
        flags: DeleteFlags::OUTER.with(DeleteFlags::MOVE_TO_ALTERNATE_FIRST),
        iface: WLAN,
    };
    let all = [
        (4, "alternates", alternates.notify(4)),
        (5, "add-interface", add.notify()),
        (0x0e, "derived-sas", list.notify()),
        (7, "delete-interface", delete.notify()),
        (0, "supported", Supported::ours(Spi(0x0a0b_0c0d)).notify()),
        (1, "interfaces", table.notify()),
        (2, "outer-addrs", outer.notify()),
        (3, "update-addrs", update.notify()),
    ];
    for (which, name, notify) in all {
        let data = [vec![which], notify.data].concat();
        seeds.push(("mif_notifies", name.into(), data));
    }
}

fn packets(seeds: &mut Vec<Seed>) {
    // Sealed, repeated, flipped, authentic with text of its own; with and without ESN.
    for (name, setup) in [
        ("aes128", 0u8),
        ("aes256-esn", 0x81),
        ("chacha-wide", 0x42),
        ("aes256-cbc-esn", 0x83),
    ] {
        let text = [0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17];
        let mut data = vec![setup];
        for op in [2, 2, 0x82, 0x83] {
            data.extend([op, 0, 17, 0, 0, 10]);
            data.extend(text);
        }
        data.extend([3, 4, 0, 20, 1]);
        data.extend([1, 0, 20, 0, 0, 8, 9, 9, 9, 9, 1, 2, 2, 4]);
        data.extend([0, 0, 4, 1, 2, 3, 4]);
        seeds.push(("esp_packet", name.into(), data));
    }
    let counted = |bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).expect("a small packet");
        [len.to_be_bytes().as_slice(), bytes].concat()
    };
    for (name, vnet, packet) in inner() {
        let read = [vnet.as_slice(), &packet].concat();
        let mut data = vec![0x05, 0x00, 0];
        data.extend(counted(&read));
        data.push(3);
        data.extend(counted(&packet));
        seeds.push(("inner_packet", name.into(), data));
    }
}

/// Packets as a TUN gives them: plain and super-packets, both families.
fn inner() -> Vec<(&'static str, [u8; 10], Vec<u8>)> {
    let v4 = |protocol, body: &[u8], df: u8| {
        let total = u16::try_from(20 + body.len()).expect("small").to_be_bytes();
        let mut packet = vec![0x45, 2, total[0], total[1], 0, 1, df, 0, 64, protocol, 0, 0];
        packet.extend([192, 0, 2, 1, 198, 51, 100, 2]);
        packet.extend(body);
        packet
    };
    let v6 = |next, body: &[u8]| {
        let len = u16::try_from(body.len()).expect("small").to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], next, 64];
        packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend(body);
        packet
    };
    let tcp = |flags, options: &[u8], payload: usize| {
        let offset = u8::try_from((20 + options.len()) / 4 * 16).expect("small");
        let mut segment = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2];
        segment.extend([offset, flags, 2, 0, 0, 0, 0, 0]);
        segment.extend(options);
        segment.extend(vec![0x5a; payload]);
        segment
    };
    let udp = |payload: usize| {
        let len = u16::try_from(8 + payload).expect("small").to_be_bytes();
        let mut datagram = vec![0x30, 0x39, 0, 53, len[0], len[1], 0, 0];
        datagram.extend(vec![0xa5; payload]);
        datagram
    };
    let vnet = |gso: u8, size: u16, start: u8, offset: u8| {
        let size = size.to_ne_bytes();
        [1, gso, 40, 0, size[0], size[1], start, 0, offset, 0]
    };
    let plain = [0; 10];
    vec![
        ("v4-syn", plain, v4(6, &tcp(2, &[2, 4, 5, 0xb4], 0), 0x40)),
        (
            "v6-syn",
            plain,
            v6(6, &tcp(2, &[1, 1, 1, 1, 2, 4, 5, 0xb4], 0)),
        ),
        (
            "v4-tso",
            vnet(1, 500, 20, 16),
            v4(6, &tcp(0x18, &[], 1800), 0x40),
        ),
        ("v6-tso", vnet(4, 500, 40, 16), v6(6, &tcp(0x10, &[], 1800))),
        ("v4-uso", vnet(5, 200, 20, 6), v4(17, &udp(900), 0)),
        ("v6-uso", vnet(5, 200, 40, 6), v6(17, &udp(900))),
        ("v4-fragmentable", plain, v4(17, &udp(1600), 0)),
        ("v4-too-big", plain, v4(17, &udp(1600), 0x40)),
        ("v6-too-big", plain, v6(17, &udp(1600))),
        ("v6-extensions", plain, {
            let mut body = vec![44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9];
            body.extend(udp(20));
            v6(0, &body)
        }),
        ("v4-echo", plain, v4(1, &[8, 0, 0, 0, 0, 1, 0, 2], 0)),
    ]
}

/// Steps of `ike_session`: what [`super::session`] makes of these octets is
/// said beside them.
fn sessions(seeds: &mut Vec<Seed>) {
    let mut add = |name: &str, data: &[u8]| {
        seeds.push(("ike_session", name.into(), data.to_vec()));
    };
    // seed; request, CREATE_CHILD_SA, 4 payloads: SA, nonce, TSi, TSr; time.
    add(
        "create-child",
        &[
            1, 0, 0, 4, 0, 1, 2, 3, 4, 2, 9, 5, 0, 0, 10, 0, 0, 0, 10, 0, 0, 9, 6, 0, 0, 10, 1, 0,
            0, 10, 1, 0, 9, 5, 0, 200,
        ],
    );
    // The same with REKEY_SA.
    add(
        "rekey-child",
        &[
            1, 0, 0, 5, 9, 0xa0, 0, 0, 0, 1, 2, 3, 4, 2, 9, 5, 0, 0, 0, 0, 0, 0, 255, 255, 255,
            255, 6, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 5, 0, 200,
        ],
    );
    // Delete of a Child SA, of an unknown one, of the IKE SA.
    add(
        "delete",
        &[
            1, 0, 2, 1, 7, 1, 0, 5, 0, 100, 0, 2, 1, 7, 1, 0xff, 1, 2, 3, 4, 5, 0, 9, 0, 2, 1, 8,
            0xff,
        ],
    );
    // Commands at both ends with loss between.
    add(
        "commands",
        &[
            1, 6, 0, 6, 2, 9, 5, 9, 9, 0x86, 2, 5, 1, 0, 6, 3, 5, 4, 0, 6, 1, 0,
        ],
    );
    // Tables of both ends, an interface added, carried, chosen by the peer, deleted.
    add(
        "interfaces",
        &[
            1, 6, 0x40, 0, 0x88, 0x40, 0, 5, 0, 200, 6, 0x48, 2, 5, 0, 100, 6, 0x42, 2, 0x88, 0x43,
            0x40, 5, 0, 100, 6, 0x44, 2, 5, 0, 200,
        ],
    );
    // Both derive for one path, while the IKE SA is rekeyed; alternates.
    add(
        "interfaces-collide",
        &[
            1, 6, 0x40, 0, 0x88, 0x40, 0, 5, 0, 200, 6, 6, 6, 0x48, 0x12, 0x88, 0x48, 0x21, 6,
            0x45, 0, 5, 0, 200,
        ],
    );
    // MIF_UPDATE_ADDRS with data of its own.
    add(
        "mif-update",
        &[
            1, 0, 2, 1, 10, 0x80, 3, 0, 32, 0, 0, 0, 7, 0, 9, 1, 0xf4, 0, 2, 0, 2, 1, 0, 0, 0, 198,
            51, 100, 20, 1, 1, 0x11, 0x94, 198, 51, 100, 21, 0, 0, 5, 0, 100,
        ],
    );
    // IKE SA rekey: SA of an IKE proposal, nonce, KE.
    add(
        "rekey-ike",
        &[
            1, 0, 0, 3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 2, 9, 4, 0, 0, 0, 9, 32, 5, 0, 200,
        ],
    );
    // A response nobody asked for, a repeated datagram, garbage.
    add(
        "noise",
        &[1, 4, 2, 3, 0, 8, 0, 3, 0, 40, 1, 0x87, 0, 4, 1, 2, 3, 4],
    );
}

/// Flags, number and total of each fragment, see [`super::session::fragments`].
type Order<'a> = &'a [(u8, u8, u8)];

/// Fragments in order, out of order, repeated, of two messages, with a gap.
fn fragments(seeds: &mut Vec<Seed>) {
    // An unknown payload of 12 octets that need not be understood, cut in three.
    let chain = [0, 0, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8];
    let piece = |op: u8, number: u8, total: u8| {
        let at = usize::from(number - 1) % 3 * 4;
        [&[op, number, total, 200, 0, 4], &chain[at..at + 4]].concat()
    };
    let orders: [(&str, Order<'_>); 5] = [
        ("in-order", &[(0, 1, 3), (0, 2, 3), (0, 3, 3)]),
        ("reversed", &[(0, 3, 3), (0, 2, 3), (0, 1, 3)]),
        (
            "repeated",
            &[(0, 1, 3), (0, 1, 3), (0, 3, 3), (0, 2, 3), (0, 2, 3)],
        ),
        (
            "two-messages",
            &[(0, 1, 3), (1, 1, 3), (0, 2, 3), (1, 3, 3), (0, 3, 3)],
        ),
        (
            "cut-anew",
            &[(0, 1, 2), (0, 1, 3), (4, 2, 2), (0, 2, 3), (0x10, 3, 3)],
        ),
    ];
    for (name, order) in orders {
        let mut data = vec![1];
        for (op, number, total) in order {
            data.extend(piece(*op, *number, *total));
        }
        seeds.push(("skf_reassembly", name.into(), data));
    }
}

fn certificates(seeds: &mut Vec<Seed>) {
    let counted = |bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).expect("a small certificate");
        [len.to_be_bytes().as_slice(), bytes].concat()
    };
    for key in [Key::P256, Key::Ed25519] {
        let root = Authority::root("Fuzz CA", key);
        let issued = root.issue(&Request::new(key, "laptop@example.org"));
        let (leaf, trusted) = (der(&issued.chain), der(&root.pem()));
        let name = format!("{key:?}").to_lowercase();
        let data = [vec![0], counted(&leaf), counted(&trusted)].concat();
        seeds.push(("certificate", format!("{name}-chain"), data));
        let data = [vec![1], root.pem().into_bytes()].concat();
        seeds.push(("certificate", format!("{name}-anchor"), data));
        let data = [
            vec![2],
            counted(issued.chain.as_bytes()),
            issued.key.into_bytes(),
        ]
        .concat();
        seeds.push(("certificate", format!("{name}-credential"), data));
    }
    for algorithm in [
        SignatureAlgorithm::RsaPssSha256,
        SignatureAlgorithm::RsaPkcs1Sha512,
        SignatureAlgorithm::EcdsaSha384,
        SignatureAlgorithm::Ed25519,
    ] {
        let name = format!("{algorithm:?}").to_lowercase();
        let data = [vec![3], algorithm.identifier()].concat();
        seeds.push(("certificate", name, data));
    }
}

fn texts(seeds: &mut Vec<Seed>) {
    let readme = include_str!("../../../README.md");
    let blocks = readme.split("```toml\n").skip(1);
    for (n, block) in blocks
        .filter_map(|rest| rest.split("```").next())
        .enumerate()
    {
        // The secret beside the corpora, so that a whole file is good.
        let text: String = block
            .lines()
            .map(|line| match line.split_once("psk_file") {
                Some(_) => "psk_file = \"gw.psk\"\n".to_string(),
                None => format!("{line}\n"),
            })
            .collect();
        seeds.push(("config_file", format!("readme-{n}"), text.into_bytes()));
    }
    for (name, text) in [
        ("gateway", GATEWAY_FILE),
        ("user", USER_FILE),
        ("mistakes", MISTAKES),
    ] {
        seeds.push(("config_file", name.into(), text.as_bytes().to_vec()));
    }
    for request in ["status", "path", "sa", "monitor"] {
        let line = format!("{{\"request\":\"{request}\"}}");
        seeds.push(("control_request", request.into(), line.into_bytes()));
    }
    for (name, line) in [
        (
            "move",
            r#"{"request":"move","peer":"gw","from":"wlan0","to":"wwan0","dry_run":true}"#,
        ),
        (
            "add-interface",
            r#"{"request":"add-interface","peer":"gw","access":"eth0"}"#,
        ),
        (
            "delete-interface",
            r#"{"request":"delete-interface","peer":"gw","access":"eth0","move_first":false}"#,
        ),
        (
            "drain",
            r#"{"request":"drain","access":"wlan0","undo":false}"#,
        ),
        (
            "explain-spi",
            r#"{"request":"explain","of":{"spi":"0xc0ffee01"}}"#,
        ),
        (
            "explain-flow",
            r#"{"request":"explain","of":{"flow":{"protocol":17,"src":"10.66.0.1","sport":4000,"dst":"10.99.0.2","dport":53}}}"#,
        ),
    ] {
        seeds.push(("control_request", name.into(), line.as_bytes().to_vec()));
    }
}

const GATEWAY_FILE: &str = r#"
[agent]
name = "gw"
control = "/run/mifsec/gw.sock"
routing = "manual"
xdp = "auto"
workers = 2
port = 4500
anchor = ["192.0.0.0/29", "fd00:6d69:6673::/64"]

[[access]]
interface = "eth0"
class = "ethernet"
addresses = ["203.0.113.1", "2001:db8::1"]
mtu = 1500
max_rate = "1Gbit/s"

[[pool]]
name = "subscribers"
cidr = ["10.66.0.0/16", "fd66::/64"]
dns = ["10.66.0.1"]
exclude = ["10.66.0.1"]

[[peer]]
name = "subscribers"
local_id = "gw.example.org"
remote_id = "*@example.org"
psk_table = "gw.psk"
pool = "subscribers"
require = "any"
ike = ["aes256gcm16-prfsha384-ecp384", "default"]
esp = ["chacha20poly1305"]

[[peer.child]]
name = "internet"
local_ts = ["0.0.0.0/0", "::/0"]
remote_ts = ["dynamic"]
replay_window = 1024

[limits]
sas = 100
half_open = 50
"#;

const USER_FILE: &str = r#"
[[access]]
interface = "wlan0"
weight = 70
priority = 1
metered = false

[[access]]
interface = "wwan0"
metered = true
data_cap = "10GiB"

[[peer]]
name = "gw"
remote = ["203.0.113.1", "2001:db8::1"]
local_id = "laptop@example.org"
remote_id = "gw.example.org"
psk_file = "gw.psk"
addresses = ["ipv4", "ipv6"]
start = "auto"
dpd = "30s"
rekey = "1h"
require = "mif"

[[peer.child]]
name = "voice"
order = 1
dscp = [46]
local_ts = ["dynamic"]
remote_ts = ["10.0.0.0/8:udp/5060-5070"]
layout = "bundle"
"#;

const MISTAKES: &str = r#"
[agent]
nam = 1
port = 70000
[[access]]
interface = "a name that is far too long"
[[peer]]
remote = ["nowhere"]
"#;
