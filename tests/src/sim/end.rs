//! One end of a [`Pair`](super::Pair): an engine, what a data plane would hold,
//! and the checks of what must always be true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mifsec::crypto::AeadAlgorithm;
use mifsec::ids::{ChildId, IfacePair, IkeId, Spi};
use mifsec::ike::message::{self, Header, PayloadType};
use mifsec::ike::selector::TrafficSelector;
use mifsec::ike::{Engine, Event, SaRequest, TimerKind, Transmit};

use super::sending::Sending;

/// Messages above this are fragmented or lost somewhere: IPv6's least MTU without
/// IPv6, UDP and the non-ESP marker.
const MAX_DATAGRAM: usize = 1280 - 40 - 8 - 4;

/// A Child SA as the data plane got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its IKE SA.
    pub ike: IkeId,
    /// Name of its configuration.
    pub name: String,
    /// SPI received on.
    pub spi_in: Spi,
    /// SPI sent on.
    pub spi_out: Spi,
    /// Key of what is received.
    pub key_in: Vec<u8>,
    /// Key of what is sent.
    pub key_out: Vec<u8>,
    /// What protects its packets.
    pub algorithm: AeadAlgorithm,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Our selectors.
    pub ts_local: Vec<TrafficSelector>,
    /// The peer's.
    pub ts_remote: Vec<TrafficSelector>,
    /// Its path.
    pub pair: IfacePair,
    /// Whether sending waits for the first packet.
    pub hold: bool,
    /// The one it takes over from.
    pub replaces: Option<ChildId>,
    /// It lost a simultaneous rekey.
    pub redundant: bool,
}

/// One engine with its surroundings.
pub struct End {
    /// The engine.
    pub engine: Engine,
    /// Child SAs installed, and neither removed nor retired without a successor.
    pub children: BTreeMap<ChildId, Installed>,
    /// Child SAs that nothing replaces and that only receive.
    pub retired: BTreeMap<ChildId, Installed>,
    /// What is sent on.
    pub sending: Sending,
    /// SPIs announced as larval.
    pub larval: BTreeSet<Spi>,
    /// All events so far.
    pub events: Vec<Event>,
    /// Child SAs ever installed.
    pub installs: usize,
    /// Rebinds ever asked for.
    pub rebinds: usize,
    /// Longest message that may leave. Certificates without fragmentation need more.
    pub max_datagram: usize,
    /// Every key ever installed, to find one used twice.
    keys: BTreeSet<Vec<u8>>,
    /// Octets of requests by (initiator's SPI, id, fragment number or 0).
    requests: BTreeMap<(u64, u32, u16), Vec<u8>>,
}

impl End {
    /// Around an engine without IKE SAs.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            children: BTreeMap::new(),
            retired: BTreeMap::new(),
            sending: Sending::default(),
            larval: BTreeSet::new(),
            events: Vec::new(),
            installs: 0,
            rebinds: 0,
            max_datagram: MAX_DATAGRAM,
            keys: BTreeSet::new(),
            requests: BTreeMap::new(),
        }
    }

    /// Takes everything the engine has to give, in the order a driver does.
    ///
    /// # Panics
    /// When something that must always hold does not.
    pub fn drain(&mut self, now: Instant) -> Vec<Transmit> {
        if let Some((at, TimerKind::Drain)) = self.engine.poll_timeout() {
            assert!(at <= now, "waiting output is due at once");
        }
        while let Some(event) = self.engine.poll_event() {
            self.events.push(event);
        }
        while let Some(request) = self.engine.poll_sa_request() {
            self.sending.apply(&request, now);
            self.apply(request);
        }
        let mut transmits = Vec::new();
        while let Some(transmit) = self.engine.poll_transmit() {
            self.check(&transmit);
            transmits.push(transmit);
        }
        assert!(!matches!(
            self.engine.poll_timeout(),
            Some((_, TimerKind::Drain))
        ));
        transmits
    }

    fn apply(&mut self, request: SaRequest) {
        match request {
            SaRequest::Larval { spi, .. } => {
                assert!(self.larval.insert(spi), "{spi} larval twice");
                assert!(!self.is_live(spi), "{spi} is in use");
            }
            SaRequest::LarvalGone { spi } => {
                assert!(self.larval.remove(&spi), "{spi} was not larval");
            }
            SaRequest::Install(child) => {
                self.larval.remove(&child.spi_in);
                assert!(!self.is_live(child.spi_in), "{} reused", child.spi_in);
                assert!(child.spi_in.0 >= 256 && child.spi_out.0 >= 256);
                let key_in = child.keymat_in.expose().to_vec();
                let key_out = child.keymat_out.expose().to_vec();
                assert!(self.keys.insert(key_in.clone()), "a key used twice");
                assert!(self.keys.insert(key_out.clone()), "a key used twice");
                self.installs += 1;
                let installed = Installed {
                    ike: child.ike,
                    name: child.name.clone(),
                    spi_in: child.spi_in,
                    spi_out: child.spi_out,
                    key_in,
                    key_out,
                    algorithm: child.algorithm,
                    esn: child.esn,
                    ts_local: child.ts_local.clone(),
                    ts_remote: child.ts_remote.clone(),
                    pair: child.pair,
                    hold: child.hold_outbound,
                    replaces: child.replaces,
                    redundant: child.redundant,
                };
                assert!(self.children.insert(child.child, installed).is_none());
            }
            SaRequest::Rebind { child, pair } => {
                self.rebinds += 1;
                self.children
                    .get_mut(&child)
                    .expect("only what is installed is rebound")
                    .pair = pair;
            }
            SaRequest::Retire { child } => {
                assert!(self.children.contains_key(&child), "retired after removal");
                // What nothing replaces only receives from now.
                let replaces = |c: &Installed| c.replaces == Some(child);
                if !self.children.values().any(replaces) {
                    self.retired.extend(self.children.remove_entry(&child));
                }
            }
            SaRequest::Remove { child } => {
                let removed = self.children.remove(&child);
                let removed = removed.or_else(|| self.retired.remove(&child));
                assert!(removed.is_some(), "removed twice");
            }
        }
    }

    fn is_live(&self, spi: Spi) -> bool {
        let all = self.children.values().chain(self.retired.values());
        all.into_iter().any(|child| child.spi_in == spi)
    }

    /// Size, and that ids of requests never regress: each id is one message, and
    /// a new one is the next.
    fn check(&mut self, transmit: &Transmit) {
        assert!(
            transmit.payload.len() <= self.max_datagram,
            "{} octets",
            transmit.payload.len()
        );
        self.requested(&transmit.payload);
    }

    /// Ids of requests count up by one, and each stands for one message.
    pub(super) fn requested(&mut self, payload: &[u8]) {
        let (header, first, rest) = Header::decode(payload).expect("we send messages");
        let init = header.exchange == message::ExchangeType::IKE_SA_INIT;
        if header.response || (init && header.message_id == 0) {
            return;
        }
        let number = match (first, rest) {
            (PayloadType::SKF, [_, _, _, _, high, low, ..]) => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        let key = (header.spi_i.0, header.message_id, number);
        if let Some(sent) = self.requests.get(&key) {
            assert_eq!(sent, payload, "another message under an old id");
            return;
        }
        let highest = self
            .requests
            .range((header.spi_i.0, 0, 0)..=(header.spi_i.0, u32::MAX, u16::MAX))
            .next_back();
        if let Some(((_, id, last), _)) = highest {
            let next = match number {
                0 | 1 => (id + 1, number),
                _ => (*id, last + 1),
            };
            assert_eq!((header.message_id, number), next, "ids count up by one");
        }
        self.requests.insert(key, payload.to_vec());
    }

    /// IKE SAs that are established.
    #[must_use]
    pub fn established(&self) -> Vec<IkeId> {
        self.engine
            .views()
            .into_iter()
            .filter(|view| view.state == mifsec::ike::IkeState::Established)
            .map(|view| view.ike)
            .collect()
    }

    /// The only established IKE SA.
    ///
    /// # Panics
    /// When there is another number of them.
    #[must_use]
    pub fn ike(&self) -> IkeId {
        let established = self.established();
        assert_eq!(established.len(), 1, "{established:?}");
        established[0]
    }

    /// How often something was counted.
    #[must_use]
    pub fn count(&self, reason: &str) -> u64 {
        self.engine.counters().get(reason).copied().unwrap_or(0)
    }

    /// What failed, in words.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Failed { reason, .. }
                | Event::Closed { reason, .. }
                | Event::ChildFailed { reason, .. }
                | Event::MoveRefused { reason, .. } => Some(reason.to_string()),
                _ => None,
            })
            .collect()
    }
}
