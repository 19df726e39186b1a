//! The entry points. Names are part of the contract with the loader; those
//! ending in `_l3` are for devices without an Ethernet header.

use aya_ebpf::bindings::{
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1, xdp_action,
};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_skb_set_tunnel_key};
use aya_ebpf::macros::{classifier, socket_filter, xdp};
use aya_ebpf::programs::{SkBuffContext, TcContext, XdpContext};
use aya_log_ebpf::warn;
use mifsec_common::maps::{QUEUE_BY_DESTINATION, QueueSettings};
use mifsec_common::octets::Octets as _;
use mifsec_common::parse::{ETHERNET_LEN, UDP_LEN};
use mifsec_common::path::LINK_LAYER3;
use mifsec_common::steering::{destination_hash_of, flow_hash_of};
use mifsec_common::{PathEntry, Reason, spd, steering};
use mifsec_ebpf::{Verdict, checksum, egress, guard, ingress};

use crate::maps::{ABI, QUEUE, UID};
use crate::packet::{Front, Linear, Loaded};
use crate::world::{Maps, count};

/// TCX: let the next program decide, or the packet go on.
const TCX_NEXT: i32 = -1;
/// Address families as the kernel's helper wants them.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Octets `mif_egress` reads: Ethernet, IPv6, UDP, SPI.
const EGRESS_FRONT: u32 = 14 + 40 + 8 + 4;
/// Octets `mif_ingress` reads of ESP: two VLAN tags, IPv6, UDP, marker, IKE header, the
/// first notify's type.
const INGRESS_FRONT: u32 = 14 + 8 + 40 + 8 + 4 + 28 + 8;

/// TC egress of the anchor device: puts ESP on its path.
#[classifier]
pub(crate) fn mif_egress(ctx: TcContext) -> i32 {
    if ctx.get_socket_uid() != UID.load() {
        count(Reason::FOREIGN, 1);
        return TC_ACT_SHOT;
    }
    let packet = Linear::tc(&ctx, EGRESS_FRONT);
    // SAFETY: fields of the context.
    let (gso_size, segments) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).gso_size, (*skb).gso_segs)
    };
    let meta = egress::Meta {
        len: ctx.len(),
        gso_size,
        segments: segments.max(1),
    };
    let Ok(plan) = egress::plan(&packet, &meta, &Maps) else {
        return TC_ACT_SHOT;
    };
    if rewrite(&ctx, &packet, &plan).is_none() {
        count(Reason::REWRITE, 1);
        warn!(&ctx, "rewrite refused for interface {}", plan.entry.ifindex);
        return TC_ACT_SHOT;
    }
    redirect(&ctx, plan.entry, plan.ip.v4)
}

/// Writes the path's addresses and ports, then tells the UDP checksum.
#[inline(always)]
fn rewrite(ctx: &TcContext, packet: &Linear, plan: &egress::Plan<'_>) -> Option<()> {
    let PathEntry { src, dst, .. } = plan.entry;
    let addresses = egress::address_difference(&plan.ip, src, dst);
    let transport = if plan.ip.v4 {
        let check = packet.load::<2>(ETHERNET_LEN + 10)?;
        let check = u16::from_ne_bytes(checksum::apply(check, addresses));
        let ([.., s], [.., d]) = (src.words(), dst.words());
        packet.store(ETHERNET_LEN + 10, [check]).then_some(())?;
        packet.store(ETHERNET_LEN + 12, [s, d]).then_some(())?;
        ETHERNET_LEN + 20
    } else {
        packet.store(ETHERNET_LEN + 8, src.words()).then_some(())?;
        packet.store(ETHERNET_LEN + 24, dst.words()).then_some(())?;
        ETHERNET_LEN + 40
    };
    let Some(old_ports) = plan.ports else {
        return Some(());
    };
    let ([s0, s1], [d0, d1]) = (plan.entry.sport, plan.entry.dport);
    let new_ports = u32::from_ne_bytes([s0, s1, d0, d1]);
    packet.store(transport, [new_ports]).then_some(())?;

    // A partial checksum (every GSO packet's) covers only the pseudo-header so
    // far: the kernel's helper knows, if it is told which part changed. A v4
    // checksum of zero stays "none".
    const MANGLED: u64 = BPF_F_MARK_MANGLED_0 as u64;
    let check = transport + UDP_LEN - 2;
    ctx.l4_csum_replace(
        check,
        0,
        u64::from(addresses),
        MANGLED | BPF_F_PSEUDO_HDR as u64,
    )
    .ok()?;
    if old_ports != new_ports {
        let ports = checksum::difference([old_ports], [new_ports]);
        ctx.l4_csum_replace(check, 0, u64::from(ports), MANGLED)
            .ok()?;
    }
    Some(())
}

#[inline(always)]
fn redirect(ctx: &TcContext, entry: &PathEntry, v4: bool) -> i32 {
    if entry.link_type == LINK_LAYER3 {
        // The kernel takes the Ethernet header off for a device that has none.
        // SAFETY: plain values.
        return unsafe { bpf_redirect(entry.ifindex, 0) } as i32;
    }
    let hop = if entry.next_hop.words() == [0; 4] {
        entry.dst
    } else {
        entry.next_hop
    };
    let [a, b, c, d] = hop.words();
    let mapped = hop.is_mapped();
    let mut params = bpf_redir_neigh {
        nh_family: if v4 || mapped { AF_INET } else { AF_INET6 },
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: if v4 || mapped {
                [d, 0, 0, 0]
            } else {
                [a, b, c, d]
            },
        },
    };
    // A packet that has to wait for its neighbour is sent by the neighbour of the
    // route it came with, once there is an answer: with the anchor's Ethernet
    // header, so it is lost. Tunnel metadata takes the place of that route and has
    // no neighbour; no device on the way reads it. Without it the first packet is
    // lost whenever the kernel flushes an access's neighbours, as it does when the
    // last address goes.
    let mut metadata = [0u32; 2];
    // SAFETY: the helper reads as many octets as it is told.
    unsafe {
        bpf_skb_set_tunnel_key(
            ctx.skb.skb,
            (&raw mut metadata).cast(),
            size_of_val(&metadata) as u32,
            0,
        );
    }
    // SAFETY: the helper reads `params`, whose size is given.
    unsafe {
        bpf_redirect_neigh(
            entry.ifindex,
            &raw mut params,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        ) as i32
    }
}

/// XDP on physical devices: counts arrivals, drops what nobody here knows.
#[xdp]
pub(crate) fn mif_ingress_xdp(ctx: XdpContext) -> u32 {
    let meta = ingress::Meta {
        ifindex: ctx.ingress_ifindex() as u32,
        ethernet: true,
        segments: 1,
    };
    match ingress::judge(&Linear::xdp(&ctx), &meta, &Maps) {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
    }
}

/// TC ingress on devices with an Ethernet header.
#[classifier]
pub(crate) fn mif_ingress_tc(ctx: TcContext) -> i32 {
    ingress_tc(&ctx, true)
}

/// TC ingress on devices without.
#[classifier]
pub(crate) fn mif_ingress_l3(ctx: TcContext) -> i32 {
    ingress_tc(&ctx, false)
}

#[inline(always)]
fn ingress_tc(ctx: &TcContext, ethernet: bool) -> i32 {
    // SAFETY: fields of the context.
    let (ifindex, segments) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).ifindex, (*skb).gso_segs)
    };
    let meta = ingress::Meta {
        ifindex,
        ethernet,
        segments: segments.max(1),
    };
    match ingress::judge(&Linear::tc(ctx, INGRESS_FRONT), &meta, &Maps) {
        Verdict::Pass => TCX_NEXT,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// TC egress of an access, last: nothing protected leaves in clear.
#[classifier]
pub(crate) fn mif_guard_out(ctx: TcContext) -> i32 {
    guard_tc(&ctx, true, spd::OUT)
}

/// The same without an Ethernet header.
#[classifier]
pub(crate) fn mif_guard_out_l3(ctx: TcContext) -> i32 {
    guard_tc(&ctx, false, spd::OUT)
}

/// TC egress of an access, first as well: a program behind this one that ends the
/// chain does not skip the guard. It may also change the packet, so the guard is
/// there last too. One drops, one counts.
///
/// Programs of their own: the kernel attaches none twice to a hook.
#[classifier]
pub(crate) fn mif_guard_top(ctx: TcContext) -> i32 {
    guard_tc(&ctx, true, spd::OUT)
}

/// The same without an Ethernet header.
#[classifier]
pub(crate) fn mif_guard_top_l3(ctx: TcContext) -> i32 {
    guard_tc(&ctx, false, spd::OUT)
}

/// TC ingress of an access, first: nothing protected enters in clear.
#[classifier]
pub(crate) fn mif_guard_in(ctx: TcContext) -> i32 {
    guard_tc(&ctx, true, spd::IN)
}

/// The same without an Ethernet header.
#[classifier]
pub(crate) fn mif_guard_in_l3(ctx: TcContext) -> i32 {
    guard_tc(&ctx, false, spd::IN)
}

#[inline(always)]
fn guard_tc(ctx: &TcContext, ethernet: bool, direction: u8) -> i32 {
    let meta = guard::Meta {
        ethernet,
        direction,
        owner: if direction == spd::OUT {
            owner(ctx)
        } else {
            guard::Owner::Nobody
        },
    };
    match guard::judge(&Front::tc(ctx), &meta, &Maps) {
        Verdict::Pass => TCX_NEXT,
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Whose socket the packet is from. A redirected packet keeps its socket.
#[inline(always)]
fn owner(ctx: &TcContext) -> guard::Owner {
    // SAFETY: a field of the context; the pointer is compared, not followed.
    let socket = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        guard::Owner::Nobody
    } else if ctx.get_socket_uid() == UID.load() {
        guard::Owner::Agent
    } else {
        guard::Owner::Other
    }
}

/// `TUNSETSTEERINGEBPF`: the queue of an inner packet.
#[socket_filter]
pub(crate) fn mif_queue(ctx: SkBuffContext) -> i64 {
    // Reads the version so that the object keeps it.
    let _ = ABI.load();
    let Some(settings) = QUEUE.get(0) else {
        return 0;
    };
    let QueueSettings {
        mode,
        queues,
        table,
    } = settings;
    let queues = (*queues).max(1);
    let packet = Loaded(&ctx);
    let queue = if *mode == QUEUE_BY_DESTINATION {
        destination_hash_of(&packet)
    } else {
        u32::from(steering::member(table, flow_hash_of(&packet)))
    };
    i64::from(queue % queues)
}

/// Does nothing: what the other programs' cost is measured against.
#[classifier]
pub(crate) fn mif_empty_tc(_: TcContext) -> i32 {
    TCX_NEXT
}

/// The same for XDP.
#[xdp]
pub(crate) fn mif_empty_xdp(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}
