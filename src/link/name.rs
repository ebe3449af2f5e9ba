//! Names of hosts, as this host knows them.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// How long a name server may take.
const RESOLVED_WITHIN: Duration = Duration::from_secs(5);

/// The addresses of a host, or the address itself; none when it is not known here.
pub async fn addresses(host: &str) -> Vec<String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return vec![address.to_string()];
    }
    let looked = tokio::net::lookup_host((host, 0));
    match tokio::time::timeout(RESOLVED_WITHIN, looked).await {
        Ok(Ok(found)) => {
            let mut all: Vec<String> = found.map(|address| address.ip().to_string()).collect();
            all.sort_unstable();
            all.dedup();
            all
        }
        _ => Vec::new(),
    }
}

/// Whether an address is one of this host's: what is sent to it would come from it. Nothing is sent. Whether the
/// address can be bound to does not tell, since `ip_nonlocal_bind` lets hosts with floating addresses bind to all.
#[must_use]
pub fn is_local(address: &str) -> bool {
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    if address.is_loopback() {
        return true;
    }
    let any = match address {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    };
    let source = UdpSocket::bind(any).and_then(|socket| {
        // The port does not matter.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_host_are_local() {
        for (address, local) in [
            ("127.0.0.1", true),
            ("127.0.1.1", true),
            ("::1", true),
            // Reserved for documents (RFC 5737).
            ("192.0.2.1", false),
            ("db1", false),
        ] {
            assert_eq!(is_local(address), local, "{address}");
        }
    }

    #[tokio::test]
    async fn names_have_addresses() {
        assert_eq!(addresses("192.0.2.1").await, ["192.0.2.1"]);
        assert!(
            addresses("localhost")
                .await
                .contains(&"127.0.0.1".to_owned())
        );
        assert!(addresses("no-such-host.invalid").await.is_empty());
    }
}
