//! Every mistake a configuration can hold is one line: where, what, the mend.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mifsec::config::{Config, Routing, Start, Ts};

/// A directory with a secret and a table of secrets, removed when dropped.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("mifsec-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("gw.psk"), "correct horse\n").unwrap();
        std::fs::write(
            path.join("subscribers"),
            "# who = what\nlaptop@example.org = one\ncpe@example.org = 0x00ff\n",
        )
        .unwrap();
        Self(path)
    }

    fn load(&self, text: &str) -> Result<Config, String> {
        let file = self.0.join("mifsec.toml");
        std::fs::write(&file, text).unwrap();
        let loaded = Config::load(&file).map_err(|e| e.to_string());
        if let Err(error) = &loaded {
            assert!(!error.contains('\n'), "one line: {error}");
            assert!(
                error.starts_with(&file.display().to_string()),
                "names the file: {error}"
            );
            assert!(error.contains("; "), "says what to do: {error}");
        }
        loaded
    }

    /// The error of a file that must be refused, without the directory.
    fn refused(&self, text: &str) -> String {
        match self.load(text) {
            Ok(_) => panic!("was accepted"),
            Err(error) => error.replace(&format!("{}/", self.0.display()), ""),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const LAPTOP: &str = r#"
[agent]
name = "laptop"

[[access]]
interface = "wlan0"
class = "wlan"
weight = 70

[[access]]
interface = "wwan0"
class = "ran"
priority = 1
weight = 30

[[peer]]
name = "gw"
remote = ["203.0.113.1"]
local_id = "laptop@example.org"
remote_id = "gw.example.org"
psk_file = "gw.psk"
addresses = ["ipv4", "ipv6"]

[[peer.child]]
name = "internet"
local_ts = ["dynamic"]
remote_ts = ["0.0.0.0/0", "::/0"]
"#;

const GATEWAY: &str = r#"
[[access]]
interface = "eth0"
addresses = ["203.0.113.1", "2001:db8::1"]

[[pool]]
name = "subscribers"
cidr = ["10.66.0.0/16", "fd66::/64"]

[[peer]]
name = "subscribers"
local_id = "gw.example.org"
remote_id = "*@example.org"
psk_table = "subscribers"
pool = "subscribers"

[[peer.child]]
name = "internet"
local_ts = ["0.0.0.0/0", "::/0"]
remote_ts = ["dynamic"]
"#;

#[test]
fn the_documented_files_are_accepted_with_their_defaults() {
    let files = Files::new("documented");
    let laptop = files.load(LAPTOP).unwrap();
    assert_eq!(laptop.agent.routing, Routing::Managed);
    assert!(laptop.agent.lockdown);
    assert_eq!((laptop.agent.port, laptop.agent.ike_port), (4500, 500));
    assert_eq!(laptop.peers[0].start, Start::Auto);
    assert_eq!(laptop.peers[0].children[0].accesses, [0, 1]);
    assert_eq!(laptop.peers[0].children[0].local_ts, [Ts::DYNAMIC]);
    assert_eq!(laptop.peers[0].dpd, Some(Duration::from_secs(30)));
    let off = LAPTOP.replace("psk_file", "dpd = 0\npsk_file");
    assert_eq!(files.load(&off).unwrap().peers[0].dpd, None, "0 = never");
    let gateway = files.load(GATEWAY).unwrap();
    assert_eq!(gateway.agent.routing, Routing::Manual);
    assert!(gateway.peers[0].is_template());
    assert_eq!(gateway.accesses[0].addresses.len(), 2);
}

/// Replaces one line of a good file and shows what that gives.
fn with(files: &Files, good: &str, from: &str, to: &str) -> String {
    assert!(good.contains(from), "the line to break is there: {from}");
    files.refused(&good.replacen(from, to, 1))
}

#[test]
fn an_unknown_key_is_named_with_the_one_meant() {
    let files = Files::new("unknown");
    let error = with(&files, LAPTOP, "weight = 70", "wieght = 70");
    assert_eq!(
        error,
        "mifsec.toml:8: wieght: unknown key; did you mean `weight`?"
    );
    let error = with(&files, LAPTOP, "[agent]", "[agnet]");
    assert!(error.contains("did you mean `agent`?"), "{error}");
    let error = with(&files, LAPTOP, "name = \"laptop\"", "zebra = 1");
    assert!(
        error.contains("unknown key; remove it, or use one of name, control"),
        "{error}"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_named_by_line_and_key() {
    let files = Files::new("kind");
    let error = with(&files, LAPTOP, "weight = 70", "weight = \"seventy\"");
    assert!(error.starts_with("mifsec.toml:8: weight: "), "{error}");
    let error = with(&files, LAPTOP, "weight = 70", "weight = ");
    assert!(error.starts_with("mifsec.toml:8: "), "{error}");
}

#[test]
fn weights_are_one_to_255() {
    let files = Files::new("weight");
    for bad in ["weight = 0", "weight = 256", "weight = -1"] {
        let error = with(&files, LAPTOP, "weight = 70", bad);
        assert!(
            error.starts_with("mifsec.toml:8: [[access]] \"wlan0\": weight: "),
            "{error}"
        );
        assert!(error.contains("give 1 to 255"), "{error}");
    }
}

#[test]
fn prefixes_are_checked() {
    let files = Files::new("prefix");
    let error = with(&files, GATEWAY, "10.66.0.0/16", "10.66.0.0/33");
    assert!(
        error.contains("[[pool]] \"subscribers\": cidr: \"10.66.0.0/33\" is not valid"),
        "{error}"
    );
    let error = with(&files, GATEWAY, "10.66.0.0/16", "10.66.1.0/16");
    assert!(
        error.contains("host bits set; write 10.66.0.0/16"),
        "{error}"
    );
    let error = with(&files, LAPTOP, "\"0.0.0.0/0\"", "\"everything\"");
    assert!(
        error.contains("child \"internet\": remote_ts: \"everything\" is not a prefix"),
        "{error}"
    );
    let error = with(
        &files,
        LAPTOP,
        "[agent]",
        "[agent]\nanchor = [\"240.0.0.0/8\"]",
    );
    assert!(error.contains("anchor: needs one IPv4 prefix"), "{error}");
}

#[test]
fn pools_may_not_overlap() {
    let files = Files::new("overlap");
    let second = "[[pool]]\nname = \"more\"\ncidr = [\"10.66.7.0/24\"]\n\n[[peer]]";
    let error = with(&files, GATEWAY, "[[peer]]", second);
    assert!(
        error.contains("10.66.7.0/24 overlaps pool \"subscribers\""),
        "{error}"
    );
}

#[test]
fn an_access_needs_its_interface() {
    let files = Files::new("interface");
    let error = with(&files, LAPTOP, "interface = \"wlan0\"\n", "");
    assert!(
        error.contains("[[access]]: interface: is missing; name the network interface"),
        "{error}"
    );
    let error = with(
        &files,
        LAPTOP,
        "interface = \"wwan0\"",
        "interface = \"wlan0\"",
    );
    assert!(
        error.contains("[[access]] \"wlan0\": interface: is listed twice"),
        "{error}"
    );
    let error = with(
        &files,
        LAPTOP,
        "interface = \"wlan0\"",
        "interface = \"a name far too long\"",
    );
    assert!(
        error.contains("cannot be the name of an interface"),
        "{error}"
    );
}

#[test]
fn without_access_or_peer_there_is_nothing_to_do() {
    let files = Files::new("empty");
    let error = files.refused("[agent]\nname = \"x\"\n");
    assert!(error.contains("[[access]]: there is no access"), "{error}");
    let error = files.refused("[[access]]\ninterface = \"eth0\"\n");
    assert!(error.contains("[[peer]]: there is no peer"), "{error}");
    let no_ike = LAPTOP.replace("class =", "ike = false\nclass =");
    let error = files.refused(&no_ike);
    assert!(
        error.contains("no access may carry the IKE channel"),
        "{error}"
    );
}

#[test]
fn a_child_may_only_name_accesses_that_are_there() {
    let files = Files::new("accesses");
    let error = with(
        &files,
        LAPTOP,
        "name = \"internet\"",
        "name = \"internet\"\naccesses = [\"wlan9\"]",
    );
    assert!(
        error.contains("accesses: \"wlan9\" is not the interface of any [[access]]"),
        "{error}"
    );
}

#[test]
fn secrets_must_be_readable_and_well_formed() {
    let files = Files::new("secrets");
    let error = with(&files, LAPTOP, "gw.psk", "missing.psk");
    assert!(
        error.contains("psk_file: missing.psk cannot be read (No such file"),
        "{error}"
    );
    // A directory is there and cannot be read, for root either.
    std::fs::create_dir(files.0.join("folder")).unwrap();
    let error = with(&files, LAPTOP, "gw.psk", "folder");
    assert!(
        error.contains("psk_file: folder cannot be read (Is a directory"),
        "{error}"
    );
    std::fs::write(files.0.join("empty"), "\n\n").unwrap();
    let error = with(&files, LAPTOP, "gw.psk", "empty");
    assert!(error.contains("psk_file: empty is empty"), "{error}");
    std::fs::write(files.0.join("hex"), "0x123\n").unwrap();
    let error = with(&files, LAPTOP, "gw.psk", "hex");
    assert!(
        error.contains("not an even number of hex digits"),
        "{error}"
    );
    for (content, complaint) in [
        (
            "laptop@example.org one\n",
            "subscribers:1 is not `identity = secret`",
        ),
        (
            "\na@example.org = x\na@example.org = y\n",
            "subscribers:3 names a@example.org a second time",
        ),
        ("a@example.org =\n", "subscribers:1: the secret is empty"),
        ("# nobody\n", "has no `identity = secret` line"),
    ] {
        std::fs::write(files.0.join("subscribers"), content).unwrap();
        let error = files.refused(GATEWAY);
        assert!(
            error.contains("psk_table: ") && error.contains(complaint),
            "{error}"
        );
    }
}

#[test]
fn an_interface_that_is_not_there_is_named_in_one_line_and_waited_for() {
    let files = Files::new("absent");
    let text = LAPTOP.replace("wlan0", "absent7").replace("wwan0", "lo");
    let warnings = files.load(&text).unwrap().warnings();
    let interfaces: Vec<_> = warnings
        .iter()
        .filter(|w| w.contains("no such interface"))
        .collect();
    assert_eq!(interfaces.len(), 1, "{warnings:?}");
    assert!(interfaces[0].contains("\"absent7\"") && !interfaces[0].contains('\n'));
    assert!(interfaces[0].contains("it is used when it appears"));
}

#[test]
fn a_peer_has_one_kind_of_secret() {
    let files = Files::new("kinds");
    let error = with(&files, LAPTOP, "psk_file = \"gw.psk\"\n", "");
    assert!(error.contains("psk_file: is missing"), "{error}");
    let both = "psk_file = \"gw.psk\"\npsk_table = \"subscribers\"";
    let error = with(&files, LAPTOP, "psk_file = \"gw.psk\"", both);
    assert!(
        error.contains("psk_table: given beside psk_file"),
        "{error}"
    );
}

#[test]
fn one_remote_and_a_pattern_of_many_exclude_each_other() {
    let files = Files::new("pattern");
    let error = with(
        &files,
        LAPTOP,
        "remote_id = \"gw.example.org\"",
        "remote_id = \"*@example.org\"",
    );
    assert!(
        error.contains("is a pattern, but `remote` names one peer"),
        "{error}"
    );
    let error = with(&files, GATEWAY, "*@example.org", "lap*@example.org");
    assert!(error.contains("remote_id: "), "{error}");
}

#[test]
fn names_are_used_once() {
    let files = Files::new("names");
    let peer = LAPTOP.split_once("[[peer]]").unwrap().1;
    let error = files.refused(&format!("{LAPTOP}\n[[peer]]{peer}"));
    assert!(
        error.contains("[[peer]] \"gw\": name: is used twice"),
        "{error}"
    );
    let child = "[[peer.child]]\nname = \"internet\"\nremote_ts = [\"10.0.0.0/8\"]\n";
    let error = files.refused(&format!("{LAPTOP}\n{child}"));
    assert!(
        error.contains("child \"internet\": name: is used twice in this peer"),
        "{error}"
    );
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let files = Files::new("later");
    for (from, to, key) in [
        (
            "[agent]",
            "[agent]\nmetrics = \"127.0.0.1:9815\"",
            "metrics",
        ),
        ("[agent]", "[agent]\ndatapath = \"xfrm\"", "datapath"),
        (
            "name = \"internet\"",
            "name = \"internet\"\nmode = \"transport\"",
            "mode",
        ),
        (
            "name = \"internet\"",
            "name = \"internet\"\nsteering = \"redundant\"",
            "steering",
        ),
        ("weight = 70", "weight = 70\nmax_rate = \"10M\"", "max_rate"),
        (
            "addresses = [",
            "encapsulation = \"native\"\naddresses = [",
            "encapsulation",
        ),
    ] {
        let error = with(&files, LAPTOP, from, to);
        assert!(
            error.contains(&format!("{key}: ")) && error.contains("not supported yet"),
            "{error}"
        );
    }
}

#[test]
fn what_a_service_says_must_fit_together() {
    let files = Files::new("services");
    let child = |keys: &str| {
        let text = format!("name = \"internet\"\n{keys}");
        with(&files, LAPTOP, "name = \"internet\"", &text)
    };
    let beside = |keys: &str| {
        let text = format!("{LAPTOP}\n[[peer.child]]\nname = \"service\"\n{keys}\n");
        files.refused(&text)
    };
    for (error, says) in [
        (
            child("policy = \"bypass\""),
            "child: there is none to protect",
        ),
        (child("policy = \"pass\""), "use protect, bypass, discard"),
        (
            child("order = 2000"),
            "order: 2000 is out of range; give -1000 to 1000",
        ),
        (child("layout = \"both\""), "use bundle, pinned"),
        (
            beside("policy = \"bypass\""),
            "remote_ts: has no lease to stand for",
        ),
        (
            beside("policy = \"discard\"\nlayout = \"pinned\"\nremote_ts = [\"10.0.0.0/8\"]"),
            "layout: is for what goes through a tunnel",
        ),
        (
            beside("policy = \"bypass\"\naccesses = [\"wlan0\"]\nremote_ts = [\"10.0.0.0/8\"]"),
            "accesses: is for what goes through a tunnel",
        ),
        (
            beside(
                "policy = \"bypass\"\nlocal_ts = [\"10.1.0.0/16\"]\nremote_ts = [\"0.0.0.0/0\"]",
            ),
            "local_ts: lists prefixes, but without a tunnel it holds for every source; leave",
        ),
        (
            beside(
                "policy = \"discard\"\nlocal_ts = [\"0.0.0.0/0\"]\nremote_ts = [\"10.0.0.0/8\"]",
            ),
            "local_ts: lists prefixes, but without a tunnel",
        ),
        (
            beside("layout = \"pinned\"\nlocal_ts = [\"10.1.0.0/16\"]\nremote_ts = [\"::/0\"]"),
            "local_ts: lists prefixes, but pinned",
        ),
        (
            beside("remote_ts = [\"10.0.0.0/8[tpc/80]\"]"),
            "names no protocol and ports; write one like",
        ),
        (
            beside("remote_ts = [\"10.0.0.1/8[tcp/80]\"]"),
            "has host bits set",
        ),
    ] {
        assert!(error.contains(says), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn more_selectors_than_the_guard_holds_are_refused() {
    let files = Files::new("guarded");
    let many = |count: usize| {
        let nets: Vec<String> = (0..count).map(|n| format!("\"10.{n}.0.0/16\"")).collect();
        // A second child with the same selectors needs no rules of its own.
        let child = |name: &str| {
            format!(
                "[[peer.child]]\nname = \"{name}\"\nremote_ts = [{}]\n",
                nets.join(", ")
            )
        };
        format!("{LAPTOP}\n{}{}", child("one"), child("two"))
    };
    files.load(&many(126)).unwrap();
    let error = files.refused(&many(127));
    assert!(
        error.contains("129 selectors, and at most 128 can be guarded; join"),
        "{error}"
    );
}

#[test]
fn alternates_are_of_interfaces_and_the_same_for_all_children() {
    let files = Files::new("alternates");
    let child = "name = \"internet\"";
    let read = |alternates: &str| {
        let line = format!("{child}\nalternates = {alternates}");
        files.load(&LAPTOP.replace(child, &line)).unwrap().peers[0]
            .alternates
            .clone()
            .into_iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(read("\"default\""), []);
    assert_eq!(read("\"none\""), [(0, vec![]), (1, vec![])]);
    assert_eq!(read("{ wwan0 = [\"wlan0\"] }"), [(1, vec![0])]);
    for (alternates, complaint) in [
        ("\"all\"", "alternates: is \"all\""),
        (
            "{ eth9 = [] }",
            "\"eth9\" is not the interface of any [[access]]",
        ),
        (
            "{ wlan0 = [\"eth9\"] }",
            "\"eth9\" is not the interface of any [[access]]",
        ),
        ("{ wlan0 = [\"wlan0\"] }", "has \"wlan0\" for no use"),
        (
            "{ wlan0 = [\"wwan0\", \"wwan0\"] }",
            "has \"wwan0\" for no use",
        ),
        ("{ wlan0 = \"wwan0\" }", "is no list of interfaces"),
    ] {
        let line = format!("{child}\nalternates = {alternates}");
        let error = files.refused(&LAPTOP.replace(child, &line));
        assert!(error.contains(complaint), "{error}");
    }
    let second = r#"
[[peer.child]]
name = "office"
local_ts = ["dynamic"]
remote_ts = ["10.0.0.0/8"]
alternates = { wlan0 = [] }
"#;
    let line = format!("{child}\nalternates = {{ wlan0 = [\"wwan0\"] }}");
    let both = LAPTOP.replace(child, &line) + second;
    assert!(files.refused(&both).contains("differ between the children"));
    assert!(files.load(&(LAPTOP.to_owned() + second)).is_ok());
}

#[test]
fn early_announce_is_part_of_the_extension() {
    let files = Files::new("early");
    let early = LAPTOP.replace("psk_file", "early_announce = true\npsk_file");
    assert!(files.load(&early).unwrap().peers[0].mobility.early_announce);
    assert!(!files.load(LAPTOP).unwrap().peers[0].mobility.early_announce);
    let off = early.replace("psk_file", "mif = \"off\"\npsk_file");
    assert!(
        files
            .refused(&off)
            .contains("is part of IKEv2-MIF, which is off")
    );
}

#[test]
fn what_is_spoken_of_moves_must_fit_together() {
    let files = Files::new("mobility");
    let good = |keys: &str| {
        let text = LAPTOP.replacen("psk_file", &format!("{keys}\npsk_file"), 1);
        files.load(&text).unwrap().peers[0].mobility
    };
    let auto = good("");
    assert!(auto.mif && auto.mobike && auto.force_udp && !auto.no_nats);
    assert!(
        !good("require = \"mif\"").force_udp,
        "MIF peers do it unasked"
    );
    assert!(good("require = \"mif\"\nencapsulation = \"udp\"").force_udp);
    let off = good("mif = \"off\"\nrequire = \"mobike\"\nnat = \"forbid\"");
    assert!(!off.mif && off.mobike && off.no_nats);
    for (keys, key) in [
        ("mif = \"off\"\nrequire = \"mif\"", "mif"),
        (
            "mif = \"off\"\nmobike = \"off\"\nrequire = \"mobike\"",
            "mobike",
        ),
        ("mobike = \"off\"\nnat = \"forbid\"", "nat"),
        ("mobike = \"on\"", "mobike"),
    ] {
        let error = with(&files, LAPTOP, "psk_file", &format!("{keys}\npsk_file"));
        assert!(error.contains(&format!("{key}: ")), "{error}");
    }
}

#[test]
fn a_peer_that_waits_for_packets_needs_an_address_and_prefixes_behind_it() {
    let files = Files::new("trap");
    let with_trap = |text: &str| text.replacen("psk_file", "start = \"trap\"\npsk_file", 1);
    let config = files.load(&with_trap(LAPTOP)).unwrap();
    assert_eq!(config.peers[0].start, Start::Trap);
    let trap = "start = \"trap\"\npsk_table";
    let error = with(&files, GATEWAY, "psk_table", trap);
    assert!(
        error.contains("start: \"trap\" needs an address"),
        "{error}"
    );
    let error = with(
        &files,
        &with_trap(LAPTOP),
        "remote_ts = [\"0.0.0.0/0\", \"::/0\"]",
        "remote_ts = [\"dynamic\"]",
    );
    assert!(
        error.contains("start: \"trap\" waits for packets"),
        "{error}"
    );
}

#[test]
fn who_connects_may_do_so_without_a_child_sa_at_first() {
    let files = Files::new("childless");
    assert!(!files.load(LAPTOP).unwrap().peers[0].childless);
    let text = LAPTOP.replacen("psk_file", "childless = true\npsk_file", 1);
    let config = files.load(&text).unwrap();
    assert!(config.peers[0].childless);
    let error = with(&files, GATEWAY, "psk_table", "childless = true\npsk_table");
    assert!(error.contains("childless: is for who connects"), "{error}");
    let error = with(&files, LAPTOP, "psk_file", "childless = \"yes\"\npsk_file");
    assert!(error.contains("childless"), "{error}");
}

#[test]
fn proposals_and_durations_are_checked() {
    let files = Files::new("proposals");
    let error = with(&files, LAPTOP, "psk_file", "ike = [\"rot13\"]\npsk_file");
    assert!(error.contains("ike: \"rot13\": "), "{error}");
    let error = with(
        &files,
        LAPTOP,
        "psk_file",
        "esp = [\"aes128gcm16-aes128-sha256\"]\npsk_file",
    );
    assert!(
        error.contains("esp: ") && error.contains("write two"),
        "{error}"
    );
    let error = with(&files, LAPTOP, "psk_file", "dpd = \"often\"\npsk_file");
    assert!(
        error.contains("dpd: ") && error.contains("is not a duration"),
        "{error}"
    );
    let good = LAPTOP.replacen("psk_file", "dpd = \"30s\"\npsk_file", 1);
    let config = files.load(&good).unwrap();
    assert_eq!(
        config.peers[0].dpd,
        Some(std::time::Duration::from_secs(30))
    );
}

#[test]
fn lifetimes_are_a_time_a_table_or_never() {
    let files = Files::new("rekey");
    let peer = |line: &str| {
        let text = LAPTOP.replacen("psk_file", &format!("{line}\npsk_file"), 1);
        files.load(&text).map(|mut config| config.peers.remove(0))
    };
    let hours = |n: u64| Some(Duration::from_secs(n * 3600));
    let default = peer("").unwrap();
    assert_eq!(
        (default.rekey.time, default.ike_rekey.time),
        (hours(1), hours(4))
    );
    assert!((default.rekey.jitter - 0.1).abs() < f64::EPSILON);
    let never = peer("rekey = \"never\"\nike_rekey = \"never\"").unwrap();
    assert_eq!((never.rekey.time, never.ike_rekey.time), (None, None));
    let timed = peer("rekey = \"1h30m\"\nike_rekey = 7200").unwrap();
    assert_eq!(timed.rekey.time, Some(Duration::from_secs(5400)));
    assert_eq!(timed.ike_rekey.time, hours(2));
    let all =
        peer("rekey = { time = \"1h\", octets = \"16GiB\", packets = 1000000000, jitter = 0.2 }");
    let all = all.unwrap().rekey;
    assert_eq!(
        (all.time, all.octets, all.packets),
        (hours(1), Some(16 << 30), Some(1_000_000_000))
    );
    assert!((all.jitter - 0.2).abs() < f64::EPSILON);
    let packets = peer("rekey = { packets = 1000 }").unwrap().rekey;
    assert_eq!((packets.time, packets.packets), (None, Some(1000)));
    for (line, key, problem) in [
        ("rekey = \"soon\"", "rekey", "is not a lifetime"),
        ("rekey = 0", "rekey", "nothing but rekeying"),
        ("rekey = { octets = 10 }", "rekey", "nothing but rekeying"),
        ("rekey = { packets = 1 }", "rekey", "nothing but rekeying"),
        ("rekey = { octets = \"much\" }", "rekey", "not an amount"),
        ("rekey = { packets = \"1M\" }", "rekey", "not a number"),
        ("rekey = { jitter = 0.9 }", "rekey", "out of range"),
        ("rekey = { bytes = 10 }", "rekey", "is no part of it"),
        (
            "ike_rekey = { packets = 9 }",
            "ike_rekey",
            "no limit of packets",
        ),
        ("ike_rekey = false", "ike_rekey", "is not a lifetime"),
    ] {
        let error = peer(line).err().unwrap();
        assert!(
            error.contains(&format!("{key}: ")) && error.contains(problem),
            "{error}"
        );
    }
}

#[test]
fn what_the_default_offer_lacks_is_turned_on_by_one_word() {
    use mifsec::ike::proposal::{IkeProposal, Named as _};
    let files = Files::new("legacy");
    let peer = |lines: &str| {
        let text = LAPTOP.replacen("psk_file", &format!("{lines}\npsk_file"), 1);
        let config = files.load(&text).unwrap();
        let peer = &config.peers[0];
        (peer.ike.clone(), peer.esp.clone())
    };
    assert_eq!(
        peer(""),
        (vec![Default::default()], vec![Default::default()])
    );
    let (ike, esp) = peer("ike = [\"default\", \"legacy\"]\nesp = [\"default\", \"legacy\"]");
    let expected = [vec![IkeProposal::default()], IkeProposal::legacy()].concat();
    assert_eq!(ike, expected);
    assert_eq!(esp.len(), 2);
    let (ike, esp) = peer("ike = [\"aes256-sha256-modp2048\"]\nesp = [\"aes128-sha256\"]");
    assert_eq!(ike[0].to_string(), "aes256-sha256-prfsha256-modp2048");
    assert_eq!(esp[0].to_string(), "aes128-sha256-esn-noesn");
}

/// The binary `cargo xtask test` has built, or the one beside the test's own.
fn mifsec() -> Option<PathBuf> {
    let binary = match std::env::var_os("MIFSEC_BIN") {
        Some(path) => path.into(),
        None => std::env::current_exe()
            .ok()?
            .parent()?
            .parent()?
            .join("mifsec"),
    };
    binary.exists().then_some(binary)
}

fn check(file: &Path) -> Option<(bool, String)> {
    let output = Command::new(mifsec()?)
        .args(["config", "check"])
        .arg(file)
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[test]
fn config_check_says_ok_or_the_one_line() {
    let files = Files::new("check");
    let file = files.0.join("mifsec.toml");
    std::fs::write(&file, LAPTOP).unwrap();
    let Some((ok, text)) = check(&file) else {
        println!("skipped: the mifsec binary is not built");
        return;
    };
    assert!(ok, "{text}");
    assert!(text.contains("ok, 2 accesses, 1 peers"), "{text}");
    std::fs::write(&file, LAPTOP.replace("wlan0", "")).unwrap();
    let (ok, text) = check(&file).unwrap();
    assert!(!ok);
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn what_could_never_work_is_refused() {
    let files = Files::new("never");
    let error = with(&files, LAPTOP, "addresses = [\"ipv4\", \"ipv6\"]\n", "");
    assert!(error.contains("addresses: is missing"), "{error}");
    for odd in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
        let error = with(&files, LAPTOP, "203.0.113.1", odd);
        assert!(error.contains("is not the address of a host"), "{error}");
    }
    let error = with(
        &files,
        GATEWAY,
        "pool = \"sub",
        "start = \"auto\"\npool = \"sub",
    );
    assert!(error.contains("start: \"auto\" needs"), "{error}");
    // Rules have numbers next to it, and the main table's is 32766.
    let error = with(&files, LAPTOP, "[agent]", "[agent]\ntable = 32001");
    assert!(error.contains("give 1000 to 32000"), "{error}");
    std::fs::write(files.0.join("gw.psk"), "one\n\ntwo\n").unwrap();
    let error = files.refused(LAPTOP);
    assert!(error.contains("more than one line"), "{error}");
}
