//! Moves of interfaces between real agents, with counted datagrams: merge, split,
//! other hardware, both ends at once, the other family, a NAT, the race of R37.
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mifsec::path::timing::RETURN_AFTER;
use mifsec_tests::interop::agent::{Agent, AgentConfig, binary};
use mifsec_tests::interop::net::{End, Net};
use mifsec_tests::lab::load::{Load, Outcome, Plan};
use mifsec_tests::lab::sys::{Netns, now_ns};
use mifsec_tests::lab::topology::{Access, GATEWAY, SECOND_GATEWAY};
use mifsec_tests::session;
use serde_json::Value;

/// Packets a watched link may carry besides data: probes, IKE, ARP.
const QUIET: u64 = 60;
/// How long counts are taken.
const SPAN: Duration = Duration::from_millis(700);
/// One at a time: each counts every datagram.
static ALONE: Mutex<()> = Mutex::new(());

/// The two agents and what is between them.
struct World<'a> {
    net: &'a Net,
    eu: Agent<'a>,
    gw: Agent<'a>,
    inner: Vec<Ipv4Addr>,
}

/// Both agents with `children` Child SAs, after `prepare` has changed the network.
fn world(
    (client, gateway): (AgentConfig, AgentConfig),
    children: usize,
    prepare: impl FnOnce(&Net) -> Result<()>,
    work: impl FnOnce(&World<'_>) -> Result<String>,
) {
    if let Some(why) = session::missing() {
        println!("skipped: {why}");
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let net = Net::new().unwrap();
    let result = (|| {
        prepare(&net)?;
        let gw = Agent::start(&net, End::Gateway, &gateway)?;
        let eu = Agent::start(&net, End::Client, &client)?;
        eu.wait_for(1, children)?;
        gw.wait_for(1, children)?;
        let inner = eu.leases()?.into_iter().filter_map(|lease| match lease {
            IpAddr::V4(lease) => Some(lease),
            IpAddr::V6(_) => None,
        });
        let inner = inner.collect();
        // A responder may hold back that long on a new SA.
        sleep(Duration::from_millis(1100));
        work(&World {
            net: &net,
            eu,
            gw,
            inner,
        })
    })();
    match result {
        Ok(said) => println!("{said}"),
        Err(error) => panic!("{error:#}\n{}", net.logs()),
    }
}

fn both_accesses() -> (AgentConfig, AgentConfig) {
    let mut client = AgentConfig::client(&[Access::Wlan, Access::Ran]);
    // The channel is on the RAN, so that moves of the WLAN are not the channel's.
    client.accesses[0].insert("priority", "1".into());
    (client, AgentConfig::gateway())
}

/// A gateway with two announced addresses.
fn two_gateway_addresses() -> (AgentConfig, AgentConfig) {
    let (client, mut gateway) = both_accesses();
    let addresses = format!("[\"{GATEWAY}\", \"{SECOND_GATEWAY}\"]");
    gateway.accesses[0].insert("addresses", addresses);
    (client, gateway)
}

fn pinned() -> (AgentConfig, AgentConfig) {
    let (client, gateway) = both_accesses();
    (client.child("layout", "\"pinned\""), gateway)
}

impl World<'_> {
    fn load(&self, inner: usize) -> Result<Load> {
        let mut plan = Plan::new(self.inner[inner], 32);
        (plan.up, plan.down) = (3000, 3000);
        Load::start(&self.net.topology, plan)
    }

    /// `mifsec move` or `drain` at an end.
    fn tell(&self, agent: &Agent<'_>, words: &str) -> Result<Value> {
        let output = Command::new(binary()?)
            .args(words.split(' '))
            .args(["--json", "--control"])
            .arg(agent.dir.join("control.sock"))
            .output()?;
        ensure!(
            output.status.success(),
            "`mifsec {words}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Packets of both directions on an access of the end user's, within [`SPAN`].
    fn packets(&self, access: Access) -> Result<u64> {
        let before = link_packets(&self.net.topology.eu, access.link())?;
        sleep(SPAN);
        Ok(link_packets(&self.net.topology.eu, access.link())? - before)
    }

    fn wait(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
        let begin = Instant::now();
        while !holds()? {
            ensure!(begin.elapsed() < Duration::from_secs(30), "{what}: never");
            sleep(Duration::from_millis(20));
        }
        Ok(begin.elapsed())
    }

    /// Paths of an end that are up, as (our interface, the peer's).
    fn up(&self, agent: &Agent<'_>) -> Result<Vec<(u64, u64)>> {
        let view = agent.json("path")?;
        let paths = view["paths"].as_array().context("paths")?.iter();
        let up = paths.filter(|path| path["state"] == "up" && path["validated"] == true);
        Ok(up
            .map(|path| {
                let iface = |name: &str| path[name].as_u64().unwrap_or(0);
                (iface("local_iface"), iface("remote_iface"))
            })
            .collect())
    }

    /// Counts IKE messages between the ends from now on.
    fn count_ike(&self) -> Result<()> {
        self.net.topology.nft(
            "add chain ip lab ike { type filter hook forward priority -5; }; \
             flush chain ip lab ike; \
             add rule ip lab ike udp dport 4500 @th,64,32 0 counter; \
             add rule ip lab ike udp sport 4500 udp dport != 4500 @th,64,32 0 counter",
        )
    }

    /// IKE messages since [`count_ike`](Self::count_ike).
    fn ike_messages(&self) -> Result<u64> {
        let mut nft = self.net.topology.rt.command("nft");
        let output = nft.args(["list", "chain", "ip", "lab", "ike"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let counts = text.split("counter packets ").skip(1);
        Ok(counts
            .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
            .sum())
    }
}

/// Packets a link has carried, both directions.
fn link_packets(namespace: &Netns, link: &str) -> Result<u64> {
    let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{link}:")))
        .with_context(|| format!("no link {link}"))?;
    let numbers: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    Ok(numbers.get(1).context("rx")? + numbers.get(9).context("tx")?)
}

fn moves(agent: &Agent<'_>) -> Result<u64> {
    let status = agent.json("status")?;
    status["totals"]["moves"].as_u64().context("totals.moves")
}

/// Nothing lost, nothing twice.
fn lossless(outcome: &Outcome) -> Result<()> {
    let (up, down) = (&outcome.up, &outcome.down);
    ensure!(
        up.sent() > 1000 && down.sent() > 1000,
        "{} sent",
        outcome.sent()
    );
    ensure!(
        up.lost() == 0 && down.lost() == 0 && outcome.duplicated() == 0,
        "of {} lost {} up, {} down, {} twice",
        outcome.sent(),
        up.lost(),
        down.lost(),
        outcome.duplicated()
    );
    Ok(())
}

#[test]
fn a_merge_and_a_split_are_one_message_each_and_lose_nothing() {
    mifsec_tests::covers!("R25", "R26", "R30", "R32");
    world(
        both_accesses(),
        2,
        |_| Ok(()),
        |world| {
            let load = world.load(0)?;
            sleep(SPAN);
            let flips = [moves(&world.eu)?, moves(&world.gw)?];
            let plan = world.tell(&world.eu, "move gw --from wlan0 --to wwan0 --dry-run")?;
            ensure!(plan["moves"][0]["sas"] == 1, "{plan}");
            ensure!(
                world.packets(Access::Wlan)? > 10 * QUIET,
                "only a rehearsal"
            );
            world.count_ike()?;
            world.tell(&world.eu, "move gw --from wlan0 --to wwan0")?;
            sleep(Duration::from_millis(300));
            let messages = world.ike_messages()?;
            ensure!(messages == 2, "a request and its response, not {messages}");
            let wlan = world.packets(Access::Wlan)?;
            ensure!(wlan < QUIET, "the WLAN still carries {wlan} packets");
            let flipped = [moves(&world.eu)? - flips[0], moves(&world.gw)? - flips[1]];
            ensure!(flipped == [1, 1], "one entry at each end, not {flipped:?}");
            world.tell(&world.eu, "move gw --from wlan0 --to wlan0")?;
            sleep(Duration::from_millis(300));
            let back = world.packets(Access::Wlan)?;
            ensure!(back > 10 * QUIET, "the WLAN carries {back} packets again");
            let outcome = load.stop();
            lossless(&outcome)?;
            Ok(format!(
                "{} datagrams, none lost; {messages} messages, one entry at each end; WLAN {wlan} packets merged, {back} split",
                outcome.sent()
            ))
        },
    );
}

#[test]
fn an_access_moves_to_other_hardware_and_drains() {
    mifsec_tests::covers!("R26", "R22");
    let (mut client, gateway) = both_accesses();
    let third = AgentConfig::client(&[Access::Ethernet]).accesses;
    client.accesses.extend(third);
    world(
        (client, gateway),
        2,
        |_| Ok(()),
        |world| {
            world.net.topology.plug()?;
            world.wait("the third access", || {
                Ok(world.up(&world.eu)?.contains(&(3, 1)))
            })?;
            world.wait("its SA", || Ok(world.eu.sas()?.len() == 3))?;
            sleep(Duration::from_millis(1100));
            let load = world.load(0)?;
            sleep(SPAN);
            world.tell(&world.eu, "move gw --from wlan0 --to eth0")?;
            sleep(Duration::from_millis(300));
            let moved = [
                world.packets(Access::Wlan)?,
                world.packets(Access::Ethernet)?,
            ];
            ensure!(moved[0] < QUIET && moved[1] > 10 * QUIET, "{moved:?}");
            // Unplugged it takes nothing along.
            world.tell(&world.eu, "drain eth0")?;
            sleep(Duration::from_millis(500));
            world.net.topology.unplug()?;
            sleep(SPAN);
            let outcome = load.stop();
            lossless(&outcome)?;
            Ok(format!("{} datagrams, none lost", outcome.sent()))
        },
    );
}

/// The IKE SA that comes after one the gateway ended is as the operator left that one.
#[test]
fn what_the_operator_moved_is_moved_in_the_next_ike_sa() {
    world(
        both_accesses(),
        2,
        |_| Ok(()),
        |world| {
            let lent = || -> Result<bool> {
                let view = world.eu.json("path")?;
                let mut paths = view["paths"].as_array().context("paths")?.iter();
                Ok(paths.any(|p| p["access"] == "wlan0" && p["carried_by"]["local"] == "wwan0"))
            };
            world.tell(&world.eu, "move gw --from wlan0 --to wwan0")?;
            ensure!(lent()?);
            world.gw.stop()?;
            world.wait("the end", || Ok(world.eu.established()?.is_empty()))?;
            let gw = Agent::start(world.net, End::Gateway, &AgentConfig::gateway())?;
            world.eu.wait_for(1, 2)?;
            let took = world.wait("the move", lent)?;
            // It is no loan that ends by itself, and the operator can end it.
            sleep(Duration::from_secs(4));
            ensure!(lent()?, "it went home by itself");
            world.tell(&world.eu, "move gw --from wlan0 --to wlan0")?;
            ensure!(!lent()?);
            gw.stop()?;
            Ok(format!("moved {} ms after the Child SAs", took.as_millis()))
        },
    );
}

/// What the operator gave back is no more deleted in the IKE SA that comes next: whether
/// this one is connected over it, or has no path on it at all.
#[test]
fn what_the_operator_gave_back_joins_in_the_next_ike_sa() {
    let (client, gateway) = both_accesses();
    let client = client.child("alternates", "\"none\"");
    world(
        (client, gateway),
        2,
        |_| Ok(()),
        |world| {
            let topology = &world.net.topology;
            let (eu, gateway) = (&world.eu, AgentConfig::gateway());
            let stop = |gw: &Agent<'_>| {
                gw.stop()?;
                world.wait("the end", || Ok(eu.established()?.is_empty()))
            };
            let start = || Agent::start(world.net, End::Gateway, &gateway);
            let put = |access: Access, there: bool| {
                let at = access.attachments()[0];
                if !there {
                    return topology.remove_address(access, at);
                }
                topology.add_address(access, at)?;
                topology.add_route(access, at)
            };
            let left = world.tell(eu, "delete-interface gw wlan0")?;
            ensure!(left["sas"] == 1, "{left}");
            // Nothing may go elsewhere first, but nothing is there.
            let again = world.tell(eu, "delete-interface gw wlan0 --move-first")?;
            ensure!(again["sas"] == 0, "{again}");
            // Connected over it, because nothing else is there.
            stop(&world.gw)?;
            put(Access::Ran, false)?;
            let gw = start()?;
            eu.wait_for(1, 1)?;
            let back = world.tell(eu, "add-interface gw wlan0")?;
            ensure!(back["skipped"] == 1, "{back}");
            stop(&gw)?;
            put(Access::Ran, true)?;
            let gw = start()?;
            eu.wait_for(1, 2)?;
            // Without any path on it.
            world.tell(eu, "delete-interface gw wlan0")?;
            put(Access::Wlan, false)?;
            let waits = world.tell(eu, "add-interface gw wlan0");
            let waits = waits.err().map(|error| error.to_string());
            let late = |said: &String| said.contains("no answer yet");
            ensure!(waits.as_ref().is_some_and(late), "{waits:?}");
            stop(&gw)?;
            let gw = start()?;
            eu.wait_for(1, 1)?;
            put(Access::Wlan, true)?;
            eu.wait_for(1, 2)?;
            gw.stop()?;
            Ok("it joined twice".to_owned())
        },
    );
}

#[test]
fn both_ends_move_at_the_same_moment_with_several_interfaces_each() {
    mifsec_tests::covers!("R18", "R22", "R23", "R24", "R30");
    let second = |net: &Net| net.topology.second_gateway(true);
    // The first one came with the IKE channel; at home the accesses take turns.
    world(two_gateway_addresses(), 3, second, |world| {
        let load = world.load(0)?;
        sleep(SPAN);
        // Same hardware, N:M.
        let topology = &world.net.topology;
        let [old, new, _] = Access::Wlan.attachments();
        topology.add_address(Access::Wlan, new)?;
        sleep(Duration::from_millis(300));
        topology.remove_address(Access::Wlan, old)?;
        sleep(SPAN);
        let at = now_ns();
        thread::scope(|scope| {
            let eu = scope.spawn(|| world.tell(&world.eu, "move gw --from wlan0 --to wwan0"));
            let words = format!("move subscribers --from {GATEWAY} --to {SECOND_GATEWAY}");
            let gw = world.tell(&world.gw, &words);
            eu.join().unwrap().and(gw)
        })?;
        sleep(Duration::from_millis(500));
        let wlan = world.packets(Access::Wlan)?;
        ensure!(wlan < QUIET, "the WLAN still carries {wlan} packets");
        let outcome = load.stop();
        lossless(&outcome)?;
        Ok(format!(
            "{} datagrams, none lost, {} of them after both moved",
            outcome.sent(),
            outcome.up.sent_since(at) + outcome.down.sent_since(at)
        ))
    });
}

/// The Child SA of an access out of range has no path to either of the gateway's, and
/// keeps nobody from moving.
#[test]
fn an_access_out_of_range_does_not_keep_the_others_from_moving() {
    let second = |net: &Net| net.topology.second_gateway(true);
    world(two_gateway_addresses(), 3, second, |world| {
        let (eu, gw) = (&world.eu, &world.gw);
        let ways = |local: u64| -> Result<usize> {
            let up = world.up(eu)?.into_iter();
            Ok(up.filter(|(iface, _)| *iface == local).count())
        };
        world.wait("all paths", || Ok(ways(1)? == 2 && ways(2)? == 2))?;
        world.net.topology.carrier(Access::Wlan, false)?;
        world.wait("its end", || Ok(ways(1)? == 0))?;
        world.wait("the same there", || Ok(world.up(gw)?.len() == 2))?;
        let load = world.load(0)?;
        sleep(SPAN);
        let moved = world.tell(eu, "move gw --from peer:1 --to peer:2")?;
        sleep(SPAN);
        let words = format!("move subscribers --from {SECOND_GATEWAY} --to {GATEWAY}");
        let back = world.tell(gw, &words)?;
        sleep(SPAN);
        let outcome = load.stop();
        lossless(&outcome)?;
        Ok(format!(
            "{} datagrams, none lost: {moved} {back}",
            outcome.sent()
        ))
    });
}

#[test]
fn an_access_changes_its_family_and_back() {
    mifsec_tests::covers!("R22", "R26");
    let mut client = AgentConfig::client(&[Access::Ran]);
    client.accesses[0].insert("priority", "0".into());
    let mut gateway = AgentConfig::gateway();
    gateway.accesses[0].remove("addresses");
    world((client, gateway), 1, Net::outer_v6, |world| {
        world.wait("both families", || Ok(world.up(&world.eu)?.len() == 2))?;
        let load = world.load(0)?;
        sleep(SPAN);
        let topology = &world.net.topology;
        let v4 = Access::Ran.attachments()[0];
        let gone = now_ns();
        topology.remove_address(Access::Ran, v4)?;
        sleep(2 * SPAN);
        let there = now_ns();
        topology.add_address(Access::Ran, v4)?;
        topology.add_route(Access::Ran, v4)?;
        sleep(2 * SPAN);
        let outcome = load.stop();
        let silence = outcome
            .up
            .longest_silence(gone)
            .max(outcome.down.longest_silence(gone));
        let (up, down) = (outcome.up.lost(), outcome.down.lost());
        ensure!(
            silence < Duration::from_millis(250),
            "silent for {silence:?}"
        );
        ensure!(
            outcome.up.lost_between(there, u64::MAX) + outcome.down.lost_between(there, u64::MAX)
                == 0,
            "lost on the way back"
        );
        Ok(format!(
            "{} datagrams; without warning off IPv4: {up} up and {down} down lost, {} ms; back: none",
            outcome.sent(),
            silence.as_millis()
        ))
    });
}

#[test]
fn a_nat_may_appear_with_a_move() {
    mifsec_tests::covers!("R22");
    let nat = |net: &Net| {
        net.topology
            .nft("add rule ip nat post oifname gw ip saddr 192.0.2.0/24 masquerade fully-random")
    };
    world(both_accesses(), 2, nat, |world| {
        let load = world.load(0)?;
        sleep(SPAN);
        let topology = &world.net.topology;
        let [old, _, behind] = Access::Ran.attachments();
        topology.add_address(Access::Ran, behind)?;
        topology.add_route(Access::Ran, behind)?;
        sleep(Duration::from_millis(500));
        topology.remove_address(Access::Ran, old)?;
        sleep(2 * SPAN);
        let outcome = load.stop();
        let view = world.gw.json("path")?;
        let paths = view["paths"].as_array().context("paths")?;
        let ran = paths.iter().find(|path| path["remote_iface"] == 2);
        ensure!(ran.is_some_and(|path| path["nat"] == true), "{paths:?}");
        lossless(&outcome)?;
        Ok(format!("{} datagrams, none lost", outcome.sent()))
    });
}

#[test]
fn nothing_is_discarded_while_only_the_gateway_has_moved() {
    mifsec_tests::covers!("R35", "R37", "R33");
    world(
        both_accesses(),
        2,
        |_| Ok(()),
        |world| {
            let load = world.load(0)?;
            sleep(SPAN);
            // The end user does not hear of it: no IKE gets through to it.
            world.net.topology.nft(
                "add chain ip lab race { type filter hook forward priority -4; }; \
             add rule ip lab race iifname gw udp sport 4500 @th,64,32 0 counter drop",
            )?;
            let at = now_ns();
            world.tell(&world.gw, "move subscribers --from peer:1 --to peer:2")?;
            sleep(SPAN);
            let until = now_ns();
            let before = link_packets(&world.net.topology.rt, "wlan")?;
            let status = world.eu.json("status")?;
            ensure!(
                !world.eu.log().contains("interface carried"),
                "it has heard"
            );
            world.net.topology.nft("flush chain ip lab race")?;
            let heard = world.wait("the update", || {
                Ok(world.eu.log().contains("interface carried"))
            })?;
            sleep(SPAN);
            ensure!(
                link_packets(&world.net.topology.rt, "wlan")? > before,
                "counted"
            );
            // Its path works, but the operator decided.
            sleep(2 * RETURN_AFTER);
            ensure!(
                !world.eu.log().contains("iface=1 by=1"),
                "it went home by itself"
            );
            let wlan = world.packets(Access::Wlan)?;
            ensure!(wlan < QUIET, "the WLAN still carries {wlan} packets");
            let outcome = load.stop();
            let sent = outcome.down.sent_since(at) - outcome.down.sent_since(until);
            let lost = outcome.down.lost_between(at, until);
            ensure!(sent > 500 && lost == 0, "of {sent} lost {lost}: {status}");
            lossless(&outcome)?;
            Ok(format!(
                "{sent} datagrams from the gateway while the end user knew nothing, 0 discarded; heard {} ms after it could",
                heard.as_millis()
            ))
        },
    );
}

#[test]
fn the_gateway_may_notice_first_that_an_access_is_dead() {
    mifsec_tests::covers!("R33", "R34", "R35");
    world(
        pinned(),
        2,
        |_| Ok(()),
        |world| {
            // Data from the gateway only, and what it sends still arrives: the end user
            // has nothing to wait for.
            let mut plan = Plan::new(world.inner[0], 16);
            (plan.up, plan.down) = (1, 2000);
            let load = Load::start(&world.net.topology, plan)?;
            sleep(SPAN);
            let at = now_ns();
            world.net.topology.nft(
                "add chain ip lab dead { type filter hook forward priority -4; }; \
                 add rule ip lab dead iifname wlan drop",
            )?;
            world.gw.wait_log("interface carried")?;
            world.wait("the choice", || {
                Ok(world.eu.log().contains("interface carried"))
            })?;
            let log = world.eu.log();
            let (told, noticed) = (log.find("interface carried"), log.find("path down"));
            ensure!(
                noticed.is_none_or(|at| told < Some(at)),
                "the end user was first"
            );
            sleep(SPAN);
            let alive = now_ns();
            world.net.topology.nft("flush chain ip lab dead")?;
            let home = |agent: &Agent<'_>| {
                let log = agent.log();
                let last = log.lines().rfind(|line| line.contains("interface carried"));
                last.is_some_and(|line| line.contains("iface=1 by=1"))
            };
            let back = world.wait("its return", || Ok(home(&world.eu) && home(&world.gw)))?;
            sleep(SPAN);
            let outcome = load.stop();
            let silence = outcome.down.longest_silence(at);
            let lost = outcome.down.lost_between(at, alive);
            ensure!(
                silence < Duration::from_millis(1000),
                "silent for {silence:?}"
            );
            ensure!(
                outcome.down.lost_between(alive, u64::MAX) == 0,
                "lost on its return"
            );
            Ok(format!(
                "{lost} datagrams lost, {} ms silent; home again after {} ms",
                silence.as_millis(),
                back.as_millis()
            ))
        },
    );
}

#[test]
fn what_is_pinned_rides_on_the_alternate_while_its_access_has_no_carrier() {
    mifsec_tests::covers!("R33", "R34");
    world(
        pinned(),
        2,
        |_| Ok(()),
        |world| {
            let load = world.load(0)?;
            sleep(SPAN);
            let at = now_ns();
            world.net.topology.carrier(Access::Wlan, false)?;
            sleep(2 * SPAN);
            let ran = world.packets(Access::Ran)?;
            ensure!(ran > 10 * QUIET, "the RAN carries {ran} packets");
            world.net.topology.carrier(Access::Wlan, true)?;
            // As the DHCP client does.
            world
                .net
                .topology
                .add_route(Access::Wlan, Access::Wlan.attachments()[0])?;
            let up = now_ns();
            world.wait("its return", || {
                let log = world.gw.log();
                let last = log.lines().rfind(|line| line.contains("interface carried"));
                Ok(last.is_some_and(|line| line.contains("iface=1 by=1")))
            })?;
            sleep(SPAN);
            let outcome = load.stop();
            let silence = outcome
                .up
                .longest_silence(at)
                .max(outcome.down.longest_silence(at));
            let lost = outcome.up.lost() + outcome.down.lost();
            // It was told: finding out by probes takes ten times as long.
            ensure!(
                !world.gw.log().contains("unanswered"),
                "the gateway had to find out"
            );
            ensure!(
                silence < Duration::from_millis(1000),
                "silent for {silence:?}"
            );
            let after =
                outcome.up.lost_between(up, u64::MAX) + outcome.down.lost_between(up, u64::MAX);
            ensure!(after == 0, "{after} lost on its return");
            Ok(format!(
                "{lost} of {} datagrams lost, {} ms silent; home without loss",
                outcome.sent(),
                silence.as_millis()
            ))
        },
    );
}

#[test]
fn the_end_user_goes_to_a_better_interface_of_the_gateway_by_itself() {
    mifsec_tests::covers!("R13", "R41", "R51");
    let (client, mut gateway) = both_accesses();
    gateway.accesses[0].insert("priority", "5".into());
    let mut better = gateway.accesses[0].clone();
    better.insert("interface", "\"eth1\"".into());
    better.insert("addresses", "[\"203.0.114.1\"]".into());
    better.insert("priority", "1".into());
    gateway.accesses.push(better);
    let link = |net: &Net| {
        let (gw, rt) = (&net.topology.gw, &net.topology.rt);
        let peer = format!("link add eth1 type veth peer name gw1 netns {}", rt.name());
        net.ip(gw, &peer)?;
        net.ip(rt, "address add 203.0.114.254/24 dev gw1")?;
        net.ip(rt, "link set gw1 up")
    };
    world((client, gateway), 2, link, |world| {
        let made = world.eu.json("status")?["totals"]["children_created"].clone();
        let load = world.load(0)?;
        sleep(SPAN);
        let gw = &world.net.topology.gw;
        world.net.ip(gw, "address add 203.0.114.1/24 dev eth1")?;
        world.net.ip(gw, "link set eth1 up")?;
        let route = "route add default via 203.0.114.254 dev eth1 metric 300";
        world.net.ip(gw, route)?;
        let took = world.wait("the move", || {
            Ok(world.eu.log().contains("interface carried"))
        })?;
        sleep(Duration::from_millis(500));
        let before = [link_packets(gw, "eth0")?, link_packets(gw, "eth1")?];
        sleep(SPAN);
        let eth0 = link_packets(gw, "eth0")? - before[0];
        let eth1 = link_packets(gw, "eth1")? - before[1];
        ensure!(
            eth0 < QUIET && eth1 > 10 * QUIET,
            "eth0 {eth0}, eth1 {eth1} packets"
        );
        let now = world.eu.json("status")?["totals"]["children_created"].clone();
        ensure!(made == now, "no SA is made: {made} and {now}");
        let outcome = load.stop();
        lossless(&outcome)?;
        Ok(format!(
            "there {} ms after it came up, {} datagrams, none lost, no SA made",
            took.as_millis(),
            outcome.sent()
        ))
    });
}

#[test]
fn child_sas_by_the_hundred_move_by_one_message_and_one_entry() {
    mifsec_tests::covers!("R30", "R46");
    // As many as the guard has rules for; sim_mif and `bench move` have 1,000.
    const SAS: usize = 120;
    let (_, mut gateway) = two_gateway_addresses();
    let mut client = AgentConfig::client(&[Access::Ran]);
    let (own, theirs) = (client.children[0].clone(), gateway.children[0].clone());
    for number in 1..SAS {
        let name = format!("\"service{number}\"");
        let net = format!("[\"10.98.{}.{}/32\"]", number / 256, number % 256);
        let mut child = own.clone();
        child.extend([("name", name.clone()), ("remote_ts", net.clone())]);
        client.children.push(child);
        let mut child = theirs.clone();
        child.extend([("name", name), ("local_ts", net)]);
        gateway.children.push(child);
    }
    world(
        (client, gateway),
        SAS,
        |_| Ok(()),
        |world| {
            world.net.topology.second_gateway(true)?;
            world.wait("the second address", || {
                Ok(world.up(&world.eu)?.contains(&(1, 2)))
            })?;
            let load = world.load(0)?;
            sleep(SPAN);
            let flips = [moves(&world.eu)?, moves(&world.gw)?];
            world.count_ike()?;
            let plan = world.tell(&world.eu, "move gw --from peer:1 --to peer:2")?;
            sleep(SPAN);
            let messages = world.ike_messages()?;
            let flipped = [moves(&world.eu)? - flips[0], moves(&world.gw)? - flips[1]];
            let outcome = load.stop();
            ensure!(plan["moves"][0]["sas"] == SAS, "{plan}");
            ensure!(
                messages == 2 && flipped == [1, 1],
                "{messages} messages, {flipped:?} entries"
            );
            lossless(&outcome)?;
            Ok(format!(
                "{SAS} Child SAs: {messages} messages, one entry at each end; {} datagrams, none lost",
                outcome.sent()
            ))
        },
    );
}
