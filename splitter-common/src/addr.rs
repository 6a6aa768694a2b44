//! Addresses and ports in the byte order of the wire.
//!
//! There is one address type. An IPv4 address is its v4-mapped IPv6 form (RFC 4291, 2.5.5.2), so
//! that an `AF_INET` socket and an `AF_INET6` socket that dials `::ffff:a.b.c.d` share one key.

use bytemuck::{Pod, Zeroable};

/// An IPv4 or IPv6 address: 16 bytes in network order, IPv4 as v4-mapped.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// The v4-mapped form of four octets in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The four octets of a v4-mapped address; `None` for any other IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }
}

/// A port in network byte order, as `sockaddr_in.sin_port` has it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct PortBe(pub u16);

impl PortBe {
    /// From a port number in host order.
    #[inline(always)]
    #[must_use]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// The port number in host order.
    #[inline(always)]
    #[must_use]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_is_mapped_and_back() {
        let addr = Addr::from_v4([127, 10, 0, 1]);
        assert_eq!(addr.to_v4(), Some([127, 10, 0, 1]));
        assert_eq!(Addr([1; 16]).to_v4(), None);
    }

    #[test]
    fn port_is_network_order_in_memory() {
        assert_eq!(bytemuck::bytes_of(&PortBe::from_host(8080)), [0x1f, 0x90]);
        assert_eq!(PortBe::from_host(8080).to_host(), 8080);
    }
}
