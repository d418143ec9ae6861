//! Who asks: whose turn a request takes in the engine and elsewhere, and whose caches it may use.
//!
//! With several API keys each of them is a tenant, with caches of its own. With one key or none, the key says
//! nothing of who asks, so tenants are told apart by their address, an IPv6 one by its network of /64; caches
//! are shared then. All clients of a Unix socket are one tenant, and so are all behind one proxy. What a
//! client says about itself counts only within its own tenant.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::Extensions;
use undine_core::{CacheRoot, Origin, TenantId};

use crate::listener::Peer;
use crate::wire::common::Common;

/// Above every IPv4 address, and below every IPv6 network there is: addresses that begin with a zero byte are
/// reserved.
const IPV4: u64 = 1 << 32;
/// The same for API keys.
const KEYS: u64 = 2 << 32;

/// Whether requests with different API keys find what the others have left in caches.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum CacheSharing {
    /// They do not, and cannot find out what was asked with another key.
    #[default]
    WithinKey,
    /// They do (`--share-prefix-cache`).
    AcrossKeys,
}

/// Who sends a request.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// [`CacheRoot::domain`].
    domain: u64,
}

impl Caller {
    /// The caller with key number `key` of `keys`, if there are any, at the other end of a connection.
    pub(crate) fn new(keys: usize, key: Option<usize>, peer: Peer, sharing: CacheSharing) -> Self {
        let Some(key) = key.filter(|_| keys > 1) else {
            return Self { tenant: TenantId(address(peer)), domain: 0 };
        };
        let number = key as u64 + 1;
        let domain = if sharing == CacheSharing::WithinKey { number } else { 0 };
        Self { tenant: TenantId(KEYS | number), domain }
    }

    /// As it was put into the extensions of a request; everybody is the same one where nothing is known.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_default()
    }

    /// What the engine needs to know of a request's sender.
    pub(crate) fn origin(self, common: &Common) -> Origin {
        Origin { priority: common.priority, ..self.salted(common.cache_salt.as_ref()) }
    }

    /// The same of a request whose place in the queue does not matter.
    pub(crate) fn salted(self, salt: Option<&Arc<str>>) -> Origin {
        let cache_root = CacheRoot { domain: self.domain, salt: salt.map(Arc::clone) };
        Origin { tenant: self.tenant, cache_root, priority: 0 }
    }
}

fn address(peer: Peer) -> u64 {
    match peer.0 {
        None => 0,
        Some(IpAddr::V4(address)) => IPV4 | u64::from(address.to_bits()),
        // The last half is the client's own choice.
        Some(IpAddr::V6(address)) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer(Some(address.parse().unwrap()))
    }

    #[test]
    fn tenants_are_keys_or_else_addresses() {
        let of = |keys, key, peer| Caller::new(keys, key, peer, CacheSharing::WithinKey);
        let socket = Peer(None);
        // Keys there are, the one that was shown and the address; two of each: whether they are one tenant
        // and share caches.
        let (a, b) = (peer("192.0.2.1"), peer("192.0.2.2"));
        let (net, same_net) = (peer("2001:db8:1:2::3"), peer("2001:db8:1:2:ffff::4"));
        let other_net = peer("2001:db8:1:3::3");
        let cases = [
            ((0, None, a), (0, None, a), true, true),
            ((0, None, a), (0, None, b), false, true),
            ((0, None, a), (0, None, socket), false, true),
            ((0, None, socket), (0, None, socket), true, true),
            ((0, None, net), (0, None, same_net), true, true),
            ((0, None, net), (0, None, other_net), false, true),
            ((1, Some(0), a), (1, Some(0), b), false, true),
            ((2, Some(0), a), (2, Some(0), b), true, true),
            ((2, Some(0), a), (2, Some(1), a), false, false),
            ((2, Some(1), socket), (2, Some(1), net), true, true),
        ];
        for (one, other, one_tenant, one_cache) in cases {
            let [one, other] = [one, other].map(|(keys, key, peer)| of(keys, key, peer).salted(None));
            assert_eq!(one.tenant == other.tenant, one_tenant, "{one:?} {other:?}");
            assert_eq!(one.cache_root == other.cache_root, one_cache, "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_salt_separates_within_a_key_and_sharing_joins_keys() {
        let root = |key, sharing, salt: Option<&str>| {
            let caller = Caller::new(2, Some(key), Peer(None), sharing);
            caller.salted(salt.map(Arc::from).as_ref()).cache_root
        };
        use CacheSharing::{AcrossKeys, WithinKey};
        let cases = [
            ((0, WithinKey, None), (0, WithinKey, Some("a")), false),
            ((0, WithinKey, Some("a")), (0, WithinKey, Some("a")), true),
            ((0, WithinKey, Some("a")), (1, WithinKey, Some("a")), false),
            ((0, AcrossKeys, None), (1, AcrossKeys, None), true),
            ((0, AcrossKeys, Some("a")), (1, AcrossKeys, Some("a")), true),
            ((0, AcrossKeys, Some("a")), (1, AcrossKeys, Some("b")), false),
        ];
        for (one, other, same) in cases {
            let [a, b] = [one, other].map(|(key, sharing, salt)| root(key, sharing, salt));
            assert_eq!(a == b, same, "{one:?} {other:?}");
        }
    }
}
