//! Which addresses of the Internet a server may ask for strangers: those that anybody could reach from
//! anywhere.
//!
//! Source: the IANA registries of special-purpose addresses for IPv4 and IPv6. What is not known to be public
//! is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and how many of its first bits count.
type Range4 = ([u8; 4], u32);
type Range6 = ([u16; 8], u32);

/// Not reachable from everywhere, or not a single host.
const NOT_PUBLIC_4: &[Range4] = &[
    ([0, 0, 0, 0], 8),        // This network.
    ([10, 0, 0, 0], 8),       // Private.
    ([100, 64, 0, 0], 10),    // Shared by the customers of a provider.
    ([127, 0, 0, 0], 8),      // Loopback.
    ([168, 63, 129, 16], 32), // Azure's own services for its machines, at an address that looks public.
    ([169, 254, 0, 0], 16),   // Link-local, and the metadata of clouds.
    ([172, 16, 0, 0], 12),    // Private.
    ([192, 0, 0, 0], 24),     // Protocol assignments.
    ([192, 0, 2, 0], 24),     // Documentation.
    ([192, 88, 99, 0], 24),   // Relays of 6to4.
    ([192, 168, 0, 0], 16),   // Private.
    ([198, 18, 0, 0], 15),    // Benchmarks.
    ([198, 51, 100, 0], 24),  // Documentation.
    ([203, 0, 113, 0], 24),   // Documentation.
    ([224, 0, 0, 0], 4),      // Multicast.
    ([240, 0, 0, 0], 4),      // Reserved, and broadcast.
];

/// All that is assigned to hosts of the Internet.
const GLOBAL_UNICAST_6: Range6 = ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// Of it, what is not a host's own address.
const NOT_PUBLIC_6: &[Range6] = &[
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // Protocol assignments, Teredo among them.
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // Documentation.
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), // 6to4, which has an IPv4 address in it.
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // Documentation.
];
/// IPv4 addresses as networks without IPv4 write them (NAT64).
const NAT64: Range6 = ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// Whether an address belongs to a host that anybody could reach.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(inner) => is_public_4(inner),
            None if is_in_6(address, NAT64) => is_public_4(last_four(address)),
            None => {
                is_in_6(address, GLOBAL_UNICAST_6)
                    && !NOT_PUBLIC_6.iter().any(|&range| is_in_6(address, range))
            }
        },
    }
}

fn is_public_4(address: Ipv4Addr) -> bool {
    !NOT_PUBLIC_4.iter().any(|&(range, bits)| {
        let differing = address.to_bits() ^ Ipv4Addr::from(range).to_bits();
        differing >> (32 - bits) == 0
    })
}

fn is_in_6(address: Ipv6Addr, (range, bits): Range6) -> bool {
    (address.to_bits() ^ Ipv6Addr::from(range).to_bits()) >> (128 - bits) == 0
}

fn last_four(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_the_internet_are_public() {
        let public = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.0 126.1.2.3 128.0.0.1 \
            168.63.129.15 169.253.1.1 169.255.1.1 172.15.0.1 172.32.0.1 192.0.1.1 192.167.1.1 192.169.1.1 \
            198.17.0.1 198.20.0.1 223.255.255.255 2606:4700::1111 2a00:1450:4001::200e ::ffff:8.8.8.8 \
            64:ff9b::8.8.8.8 2001:4860:4860::8888 2001:200::1";
        let forbidden = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 \
            127.255.255.254 168.63.129.16 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 \
            192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.1.1.1 240.0.0.1 \
            255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.1.1.1 ::ffff:0:127.0.0.1 \
            64:ff9b::127.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::8.8.8.8 100::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 \
            ff02::1 2001::1 2001:0:53aa:64c::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:808:808:: 3fff::1 4000::1 \
            5f00::1";
        for (list, expected) in [(public, true), (forbidden, false)] {
            for text in list.split_whitespace() {
                assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
            }
        }
    }
}
