//! Where requests may go: everywhere but to private, loopback, link-local and other special
//! addresses, unless the configuration allows them.
//!
//! Whoever can enqueue a job can often steer a URL; it must not reach the daemon's own host, its
//! network, or the metadata service of its cloud. So the address in a URL is checked as parsed (which
//! catches `2130706433`, `0x7f.1` and their like), and of a name all addresses that the resolver gives: one
//! forbidden address forbids the name. The connection goes to the checked addresses, without a second look-up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::model::{Failure, code};

/// A target that the configuration allows: a host name, `*.suffix`, an address, or a network (`10.1.0.0/16`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// This name, whatever it resolves to.
    Host(String),
    /// Every name below this one, whatever they resolve to.
    Below(String),
    /// Every address whose first bits are these.
    Network(IpAddr, u8),
}

/// A text that is no target.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no target: write a host name, `*.` and a suffix, an address, or a network like 10.1.0.0/16")]
pub struct InvalidTarget(String);

impl FromStr for Allowed {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidTarget(text.to_owned());
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let bits: u8 = bits.parse().ok().filter(|bits| *bits <= longest).ok_or_else(wrong)?;
            return Ok(Self::Network(address, bits));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |rest| (rest, true));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(wrong());
        }
        let name = normal(name);
        Ok(if below { Self::Below(name) } else { Self::Host(name) })
    }
}

/// How names are compared.
fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Allowed {
    fn name(&self, name: &str) -> bool {
        match self {
            Self::Host(host) => host == name,
            Self::Below(suffix) => name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Self::Network(..) => false,
        }
    }

    fn address(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Network(IpAddr::V4(network), bits), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(*bits);
                (u64::from(network.to_bits()) >> shift) == (u64::from(address.to_bits()) >> shift)
            }
            (Self::Network(IpAddr::V6(network), bits), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(*bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// A target that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forbidden {
    name: String,
    address: IpAddr,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is at {}, a private or special address: name it in `http_allow` of the configuration",
            self.name, self.address
        )
    }
}

impl std::error::Error for Forbidden {}

impl Forbidden {
    pub(super) fn failure(&self) -> Failure {
        Failure::permanent(code::FORBIDDEN_TARGET, self.to_string())
    }
}

/// What is allowed; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Targets(Arc<[Allowed]>);

impl Targets {
    pub(super) fn new(allow: Vec<Allowed>) -> Self {
        Self(allow.into())
    }

    /// Checks a URL whose host is an address; names are checked when they are resolved, but for
    /// `localhost` and all below it, which mean this host whatever a resolver says.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), Forbidden> {
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => self.check(host, [address]),
            Err(_) => {
                let name = normal(host);
                let here = name == "localhost" || name.ends_with(".localhost");
                self.check(host, here.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
            }
        }
    }

    /// Checks all addresses of a name.
    pub(super) fn check(&self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), Forbidden> {
        let normal = normal(name);
        if self.0.iter().any(|allowed| allowed.name(&normal)) {
            return Ok(());
        }
        let forbidden = |address: &IpAddr| {
            let inner = embedded(*address);
            special(inner) && !self.0.iter().any(|a| a.address(inner) || a.address(*address))
        };
        match addresses.into_iter().find(forbidden) {
            Some(address) => Err(Forbidden { name: name.to_owned(), address }),
            None => Ok(()),
        }
    }
}

/// The IPv4 address that an IPv6 address leads to, where it does.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let inner = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match s {
        // Mapped (::ffff:0:0/96), translated (::ffff:0:0:0/96), and NAT64 (64:ff9b::/96).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        // 6to4.
        [0x2002, high, low, ..] => inner(high, low),
        _ => address,
    }
}

/// Is the address anything but an ordinary public one?
fn special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(address: Ipv4Addr) -> bool {
    match address.octets() {
        // This network, private, loopback, private, multicast and reserved.
        [0 | 10 | 127 | 224..=255, ..] => true,
        // Carrier-grade NAT, link-local (with the clouds' metadata services), private.
        [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
        // Protocol assignments, documentation, 6to4 relays.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] => true,
        // Benchmarks, documentation.
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => false,
    }
}

fn special_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Unspecified, loopback, IPv4-compatible, local NAT64: nothing public starts so.
        [0, ..] | [0x64, 0xff9b, ..] => true,
        // Discard only, Teredo and other protocol assignments, documentation.
        [0x100, 0, 0, 0, ..] | [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => true,
        // Segment routing, unique local, link-local and the old site-local, multicast.
        [0x5f00 | 0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00..=0xffff, ..] => true,
        _ => false,
    }
}

/// The system's resolver, with every answer checked.
pub(super) struct Guarded(pub(super) Targets);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            targets.check(name.as_str(), found.iter().map(SocketAddr::ip))?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
