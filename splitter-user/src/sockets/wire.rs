//! What goes over a netlink socket of `sock_diag(7)`: records, attributes, and the walk over both.
//!
//! Numbers are in the machine's order except where a name says `_be`. Layouts follow
//! `include/uapi/linux/{netlink,inet_diag,sock_diag,tcp}.h`. Nothing here does I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytemuck::{Pod, Zeroable, bytes_of, pod_read_unaligned};

/// `TCPDIAG_GETSOCK`: asks for TCP sockets. The older of two such requests; the newer one takes one
/// family at a time, and every walk through the kernel's table counts.
pub(super) const LIST: u16 = 18;
/// `SOCK_DIAG_BY_FAMILY`: the newer one, which asks for sockets of any protocol.
pub(super) const LIST_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
pub(super) const DESTROY: u16 = 21;
/// `NLMSG_ERROR`, which with errno 0 is an acknowledgement.
pub(super) const ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub(super) const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_ACK`.
pub(super) const ACKNOWLEDGE: u16 = 0x005;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
pub(super) const DUMP: u16 = 0x301;

/// `INET_DIAG_INFO`: [`TcpInfo`].
pub(super) const INFO: u16 = 2;
/// `INET_DIAG_SK_BPF_STORAGES`: nested, one [`STORAGE`] for each map that the socket is in.
pub(super) const STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE`: nested.
pub(super) const STORAGE: u16 = 1;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
pub(super) const MAP_VALUE: u16 = 3;

/// `INET_DIAG_REQ_SK_BPF_STORAGES`: nested, one [`REQUEST_MAP`] for each map that is asked for.
const REQUEST_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
const REQUEST_MAP: u16 = 1;
/// `NLA_F_NESTED`; the other bit above the type is `NLA_F_NET_BYTEORDER`.
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;
/// Messages and attributes begin at multiples of this.
const ALIGNMENT: usize = 4;

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Header {
    /// Bytes of the message, this included.
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// Number of the request that this belongs to.
    pub(super) sequence: u32,
    pub(super) port: u32,
}

/// `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub(super) struct RawId {
    pub(super) local_port_be: [u8; 2],
    pub(super) peer_port_be: [u8; 2],
    /// The first 4 bytes where the family is `AF_INET`.
    pub(super) local: [u8; 16],
    pub(super) peer: [u8; 16],
    pub(super) interface: u32,
    /// The lower half first.
    pub(super) cookie: [u32; 2],
}

/// `struct inet_diag_req`, for [`LIST`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct ListRequest {
    /// The kernel looks at none of these: family and lengths of address prefixes.
    pub(super) unused: [u8; 3],
    /// One bit per attribute that is wanted, from bit 0 for attribute 1.
    pub(super) extensions: u8,
    pub(super) id: RawId,
    /// One bit per TCP state.
    pub(super) states: u32,
    pub(super) tables: u32,
}

/// `struct inet_diag_req_v2`, for [`LIST_FAMILY`] and [`DESTROY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct FamilyRequest {
    pub(super) family: u8,
    pub(super) protocol: u8,
    pub(super) extensions: u8,
    pub(super) pad: u8,
    /// One bit per state.
    pub(super) states: u32,
    pub(super) id: RawId,
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Record {
    pub(super) family: u8,
    pub(super) state: u8,
    timer: u8,
    retransmits: u8,
    pub(super) id: RawId,
    expires: u32,
    /// Bytes that arrived and were not read.
    pub(super) unread: u32,
    /// Bytes that were written and are not acknowledged.
    pub(super) unacknowledged: u32,
    uid: u32,
    inode: u32,
}

/// The beginning of `struct tcp_info`, which only ever grows at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct TcpInfo {
    /// States, options, timeouts and counts that nobody here asks for.
    before: [u32; 11],
    /// Milliseconds.
    pub(super) last_data_sent: u32,
    last_ack_sent: u32,
    /// Milliseconds.
    pub(super) last_data_received: u32,
    last_ack_received: u32,
    path_mtu: u32,
    receive_threshold: u32,
    /// Smoothed, in microseconds; 0 before the first sample.
    pub(super) rtt: u32,
}

impl RawId {
    /// The number that the kernel gave the socket.
    pub(super) fn cookie(&self) -> u64 {
        let [low, high] = self.cookie.map(u64::from);
        high << 32 | low
    }

    /// Both ends. Nothing where the family is neither of IP.
    pub(super) fn ends(&self, family: u8) -> Option<(SocketAddr, SocketAddr)> {
        let end = |bytes: [u8; 16], port_be| {
            let addr = read_address(family, bytes)?;
            Some(SocketAddr::new(addr, u16::from_be_bytes(port_be)))
        };
        Some((end(self.local, self.local_port_be)?, end(self.peer, self.peer_port_be)?))
    }
}

fn read_address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        libc::AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// A whole message: header, request, and the map whose stored values are wanted.
pub(super) fn write_request(
    (kind, flags, sequence): (u16, u16, u32),
    request: &impl Pod,
    map: Option<u32>,
) -> Vec<u8> {
    let attributes = map.map(write_storage_request).unwrap_or_default();
    let request = bytes_of(request);
    let length = size_of::<Header>() + request.len() + attributes.len();
    let length = u32::try_from(length).expect("three small records");
    let header = Header { length, kind, flags, sequence, port: 0 };
    [bytes_of(&header), request, &attributes].concat()
}

fn write_storage_request(map: u32) -> Vec<u8> {
    let inner = write_attribute(REQUEST_MAP, &map.to_ne_bytes());
    write_attribute(REQUEST_STORAGES | NESTED, &inner)
}

/// `value` must be of a length that needs no padding.
fn write_attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("attributes of requests are small");
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// A message or attribute says a length that it cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The messages of one datagram.
pub(super) struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    pub(super) fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<(Header, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = read::<Header>(self.0).and_then(|header| {
            let length = usize::try_from(header.length).map_err(|_| Malformed)?;
            Ok((header, split(&mut self.0, size_of::<Header>(), length)?))
        });
        if message.is_err() {
            self.0 = &[];
        }
        Some(message)
    }
}

/// The attributes of a message, or of an attribute.
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of a type.
    pub(super) fn find(mut self, wanted: u16) -> Result<Option<&'a [u8]>, Malformed> {
        while !self.0.is_empty() {
            let [length, kind] = read::<[u16; 2]>(self.0)?;
            let value = split(&mut self.0, size_of::<[u16; 2]>(), usize::from(length))?;
            if kind & TYPE_MASK == wanted {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// Takes an item of `length` bytes off the front, with its padding, and answers what is behind its
/// header.
fn split<'a>(rest: &mut &'a [u8], header: usize, length: usize) -> Result<&'a [u8], Malformed> {
    let body = rest.get(header..length).ok_or(Malformed)?;
    // Nothing pads the last one.
    *rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or(&[]);
    Ok(body)
}

/// Reads a record from the front.
pub(super) fn read<T: Pod>(bytes: &[u8]) -> Result<T, Malformed> {
    bytes.get(..size_of::<T>()).map(pod_read_unaligned).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_of_the_kernels_size() {
        assert_eq!(size_of::<Header>(), 16);
        assert_eq!(size_of::<RawId>(), 48);
        assert_eq!(size_of::<ListRequest>(), 60);
        assert_eq!(size_of::<FamilyRequest>(), 56);
        assert_eq!(size_of::<Record>(), 72);
        assert_eq!(std::mem::offset_of!(TcpInfo, last_data_sent), 44);
        assert_eq!(std::mem::offset_of!(TcpInfo, last_data_received), 52);
        assert_eq!(std::mem::offset_of!(TcpInfo, rtt), 68);
    }

    #[test]
    fn a_request_reads_back() {
        let request = ListRequest { states: 2, ..ListRequest::zeroed() };
        let bytes = write_request((LIST, DUMP, 7), &request, Some(9));
        let (header, body) = Messages::new(&bytes).next().unwrap().unwrap();
        assert_eq!((header.kind, header.flags, header.sequence), (LIST, DUMP, 7));
        let storages = Attributes::new(&body[size_of::<ListRequest>()..]).find(REQUEST_STORAGES);
        let map = Attributes::new(storages.unwrap().unwrap()).find(REQUEST_MAP).unwrap();
        assert_eq!(map, Some(&9_u32.to_ne_bytes()[..]));
        assert_eq!(Messages::new(&bytes).count(), 1);
    }

    #[test]
    fn attributes_are_found_behind_padded_ones() {
        let bytes = [&[5, 0, 1, 0, 0xaa, 0, 0, 0][..], &[6, 0, 2, 0x80, 1, 2]].concat();
        assert_eq!(Attributes::new(&bytes).find(2), Ok(Some(&[1, 2][..])));
        assert_eq!(Attributes::new(&bytes).find(3), Ok(None));
    }

    #[test]
    fn lengths_that_cannot_be_are_malformed_and_end_the_walk() {
        for bytes in [&[3, 0, 1, 0][..], &[9, 0, 1, 0, 0, 0, 0, 0], &[4, 0]] {
            assert_eq!(Attributes::new(bytes).find(7), Err(Malformed), "{bytes:?}");
        }
        for length in [0_u8, 15, 17, 255] {
            let mut bytes = [0; 16];
            bytes[0] = length;
            let messages: Vec<_> = Messages::new(&bytes).collect();
            assert_eq!(messages, [Err(Malformed)], "{length}");
        }
    }

    #[test]
    fn ends_are_read_by_family() {
        let mut id = RawId::zeroed();
        id.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        id.peer[..4].copy_from_slice(&[127, 0, 0, 2]);
        (id.local_port_be, id.peer_port_be) = ([0, 80], [1, 0]);
        let (local, peer) = id.ends(2).unwrap();
        assert_eq!(
            (local.to_string(), peer.to_string()),
            ("127.0.0.1:80".into(), "127.0.0.2:256".into())
        );
        assert!(id.ends(10).unwrap().0.is_ipv6());
        assert_eq!(id.ends(1), None);
    }
}
