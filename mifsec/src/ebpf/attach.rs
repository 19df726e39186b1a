//! The attach calls: the one file that a new aya changes.

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp,
    XdpMode,
};
use aya::util::KernelVersion;

use super::pins::{self, Pins};

/// A hook and where in its order a program goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// TC ingress, before the others.
    IngressFirst,
    /// TC ingress, after the others.
    IngressLast,
    /// TC egress, before the others.
    EgressFirst,
    /// TC egress, after the others.
    EgressLast,
}

/// An attachment that lasts as long as this value, or as its pin.
#[expect(dead_code, reason = "held for its drop")]
pub(super) enum Attached {
    Pinned(PinnedLink),
    Tc(SchedClassifierLink),
    Xdp(XdpLink),
}

impl Attached {
    /// Detaches, the pin included.
    pub(super) fn detach(self) {
        if let Self::Pinned(link) = self {
            // The link goes with its last holder.
            let _: std::result::Result<FdLink, _> = link.unpin();
        }
    }
}

/// Attaches a loaded classifier to a device.
pub(super) fn tc(
    ebpf: &mut Ebpf,
    program: &'static str,
    device: &str,
    hook: Hook,
    pin: Option<(&Pins, u32)>,
) -> Result<Attached> {
    let classifier = classifier(ebpf, program)?;
    let kind = match hook {
        Hook::IngressFirst | Hook::IngressLast => TcAttachType::Ingress,
        Hook::EgressFirst | Hook::EgressLast => TcAttachType::Egress,
    };
    let options = TcAttachOptions::TcxOrder(match hook {
        Hook::IngressFirst | Hook::EgressFirst => LinkOrder::first(),
        Hook::IngressLast | Hook::EgressLast => LinkOrder::last(),
    });
    let describe = || format!("attach {program} to {device} ({hook:?})");
    let id = classifier
        .attach_with_options(device, kind, options)
        .with_context(describe)?;
    let link = classifier.take_link(id).with_context(describe)?;
    match pin {
        Some((pins, ifindex)) => {
            let link: FdLink = link.try_into().context("TCX link")?;
            let path = pins.path(program, ifindex);
            // A device that is gone left its number; the new link is in force.
            pins::remove_file(&path);
            let pinned = link
                .pin(&path)
                .with_context(|| format!("pin {}", path.display()))?;
            Ok(Attached::Pinned(pinned))
        }
        None => Ok(Attached::Tc(link)),
    }
}

/// Refuses a kernel without TCX: filters attached the old way outlive the agent
/// without a pin that its successor could find.
pub(super) fn supported(kernel: KernelVersion) -> Result<()> {
    ensure!(
        kernel >= KernelVersion::new(6, 6, 0),
        "this kernel is older than 6.6: it has no TCX links, which the guard needs"
    );
    Ok(())
}

/// Why XDP is not there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoXdp {
    /// Another program is on the device.
    Foreign,
    /// The driver or the device cannot.
    Unsupported,
}

/// Attaches a loaded XDP program; never in another's place.
pub(super) fn xdp(
    ebpf: &mut Ebpf,
    program: &'static str,
    ifindex: u32,
    native: bool,
) -> Result<std::result::Result<Attached, NoXdp>> {
    let xdp: &mut Xdp = ebpf
        .program_mut(program)
        .with_context(|| format!("no program {program} in the object"))?
        .try_into()?;
    let mode = if native {
        XdpMode::Driver
    } else {
        XdpMode::Skb
    };
    match xdp.attach_to_if_index(ifindex, mode) {
        Ok(id) => Ok(Ok(Attached::Xdp(xdp.take_link(id)?))),
        Err(ProgramError::SyscallError(error)) => match error.io_error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => Ok(Err(NoXdp::Foreign)),
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE) => Ok(Err(NoXdp::Unsupported)),
            _ => Err(error).with_context(|| format!("attach {program} to interface {ifindex}")),
        },
        Err(error) => {
            Err(error).with_context(|| format!("attach {program} to interface {ifindex}"))
        }
    }
}

/// Runs a loaded program over `packet` in the kernel, without any device.
///
/// Returns its verdict, the packet it left and the mean time of `repeat` runs.
pub(super) fn run(
    ebpf: &Ebpf,
    program: &str,
    packet: &[u8],
    context: Option<&[u8]>,
    repeat: u32,
) -> Result<super::Run> {
    // Room for what a program may put in front.
    let mut out = vec![0; packet.len() + 256];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: context,
        repeat,
        ..TestRunOptions::default()
    };
    let program = ebpf
        .program(program)
        .with_context(|| format!("no program {program} in the object"))?;
    let result = if let Ok(xdp) = <&Xdp>::try_from(program) {
        xdp.test_run(options)
    } else if let Ok(filter) = <&aya::programs::SocketFilter>::try_from(program) {
        filter.test_run(options)
    } else {
        <&SchedClassifier>::try_from(program)?.test_run(options)
    }
    .context("BPF_PROG_TEST_RUN")?;
    out.truncate(result.data_size_out as usize);
    Ok(super::Run {
        verdict: result.return_value.cast_signed(),
        packet: out,
        duration: result.duration,
    })
}

/// Loads every program of the object.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<()> {
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            aya::programs::Program::Xdp(p) => p.load(),
            aya::programs::Program::SchedClassifier(p) => p.load(),
            aya::programs::Program::SocketFilter(p) => p.load(),
            _ => anyhow::bail!("program {name} is of an unexpected type"),
        };
        loaded.map_err(|error| verifier_error(name, error))?;
    }
    Ok(())
}

/// The end of the verifier's log, where it says what it minds.
fn verifier_error(name: &str, error: ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = &error
    {
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines
            .iter()
            .rev()
            .take(12)
            .rev()
            .copied()
            .collect::<Vec<_>>();
        return anyhow::anyhow!(
            "the kernel refuses program {name}: {io_error}\n{}",
            tail.join("\n")
        );
    }
    anyhow::Error::new(error).context(format!("load program {name}"))
}

fn classifier<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut SchedClassifier> {
    ebpf.program_mut(program)
        .with_context(|| format!("no program {program} in the object"))?
        .try_into()
        .with_context(|| format!("program {program} is not a classifier"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_without_tcx_are_refused() {
        assert!(supported(KernelVersion::new(6, 5, 99)).is_err());
        assert!(supported(KernelVersion::new(6, 6, 0)).is_ok());
    }
}
